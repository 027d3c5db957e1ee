"""The error tree: callers rely on its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from liveavatar_lite import LiteError, ServerError, errors


def tree(kind: type[LiteError]) -> Iterator[type[LiteError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__ and not child.__name__.startswith("_"):
            yield child
            yield from tree(child)


def drawn() -> dict[str, str | None]:
    """Each error in the tree of the module's docstring, with its parent there."""
    parents: dict[str, str | None] = {"LiteError": None}
    above = ["LiteError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"((?:[│ ]   )*)[├└]── (\w+)", line):
            depth = len(match.group(1)) // 4 + 1
            del above[depth:]
            parents[match.group(2)] = above[-1]
            above.append(match.group(2))
    return parents


def test_the_tree_in_the_modules_docstring_is_complete() -> None:
    tree_in_docstring = drawn()

    assert set(tree_in_docstring) == {"LiteError"} | {kind.__name__ for kind in tree(LiteError)}
    for name, parent in tree_in_docstring.items():
        kind = getattr(errors, name)
        assert parent is None or issubclass(kind, getattr(errors, parent))


@pytest.mark.parametrize("kind", sorted(set(tree(LiteError)), key=str))
def test_every_error_says_when_it_is_raised(kind: type[LiteError]) -> None:
    assert kind.__doc__
    assert "__doc__" in vars(kind), "its own docstring, not its parent's"
    assert isinstance(kind.retryable, bool)
    assert isinstance(kind.maybe_billed, bool)


def test_an_error_of_the_api_reads_as_one_sentence() -> None:
    error = ServerError(503, 5000, "overloaded", 2.5, call="POST /v1/sessions/start")

    assert str(error) == (
        "LiveAvatar answered 503/5000 to POST /v1/sessions/start: overloaded (retry after 2.5 s)"
    )
