"""Shows the docstrings' Sphinx roles as code: ``:class:`a.b.Name``` becomes ```Name```.

A griffe extension, loaded by mkdocs.yml. It changes what the pages show and nothing else.
"""

from __future__ import annotations

import re
from typing import Any, Final

from griffe import Extension, Object

_ROLE: Final = re.compile(r":(?:class|meth|func|attr|mod|data|exc|obj):`~?([^`]+)`")
_LITERAL: Final = re.compile(r"``([^`]+)``")


class SphinxRoles(Extension):
    """Rewrites each docstring once it is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(lambda found: f"`{found[1]}`", obj.docstring.value)
            obj.docstring.value = _LITERAL.sub(r"`\1`", text)
