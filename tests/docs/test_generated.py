"""The generated reference pages match the code."""

from __future__ import annotations

import re

import avatar_sessions
import liveavatar_lite
from avatar_sessions import AvatarSessionsError
from deploy.local.settings import ROOT
from docs.generate import out_of_date
from liveavatar_lite import LiteError


def test_generated_pages_are_up_to_date() -> None:
    assert out_of_date() == []


def test_every_public_error_is_on_the_page_of_errors() -> None:
    """The base of `ValueError`s moved to another module once, and fell off the page."""
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    for package, root in ((avatar_sessions, AvatarSessionsError), (liveavatar_lite, LiteError)):
        public = [getattr(package, name) for name in package.__all__]
        errors = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, root)}
        assert errors <= set(re.findall(r"^### `(\w+)`$", page, re.M))
