"""The code blocks of the project's Markdown pages, and what becomes of each.

Above a fenced block stands one HTML comment: ``<!-- run: NAME -->`` where a test runs the block,
``<!-- not run: REASON -->`` where none does. Blocks of the language ``text`` are figures.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from deploy.local.settings import ROOT

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_COMMENT: Final = re.compile(r"<!-- (?P<kind>run|not run): (?P<text>[^\n]+) -->\n *$")
_ROOMS: Final = ("docs", "demo", "examples", "deploy")


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block."""

    path: Path
    line: int
    """Of the opening fence, from 1."""
    language: str
    body: str
    run: str | None
    """The name under which a test runs the block."""
    not_run: str | None
    """Why no test runs it."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Every Markdown page of the project."""
    found = [*ROOT.glob("*.md"), *(one for room in _ROOMS for one in (ROOT / room).rglob("*.md"))]
    return tuple(sorted(found))


@cache
def code_blocks() -> tuple[CodeBlock, ...]:
    """Every fenced block that is not a figure, in the order of the pages."""
    return tuple(block for path in pages() for block in _blocks_of(path))


def blocks_run_as(name: str, language: str = "python") -> tuple[str, ...]:
    """The bodies of the blocks under ``<!-- run: name -->``."""
    found = tuple(b.body for b in code_blocks() if (b.run, b.language) == (name, language))
    assert found, f"no page has a {language} block to be run as {name}"
    return found


def _blocks_of(path: Path) -> Iterator[CodeBlock]:
    text = path.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        if fence["language"] == "text":
            continue
        comment = _COMMENT.search(text, 0, fence.start())
        kind, remark = (comment["kind"], comment["text"]) if comment else ("", "")
        yield CodeBlock(
            path=path,
            line=text.count("\n", 0, fence.start()) + 1,
            language=fence["language"],
            body=textwrap.dedent(fence["body"]),
            run=remark if kind == "run" else None,
            not_run=remark if kind == "not run" else None,
        )
