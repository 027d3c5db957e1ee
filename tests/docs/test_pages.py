"""Every code block is run or says why not; prose and links keep the project's form."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from deploy.local.settings import ROOT
from tests.support.markdown import CodeBlock, code_blocks, pages

MAX_WIDTH = 120
MAX_ROW_WIDTH = 250
"""Of a table: a longer row cannot be read in a diff, and is a list."""
README_LINES = 120


@pytest.mark.parametrize("block", code_blocks(), ids=str)
def test_a_code_block_is_run_or_says_why_not(block: CodeBlock) -> None:
    assert block.language, f"{block}: name the language; `text` for a figure"
    assert block.run or block.not_run, (
        f"{block}: neither `<!-- run: NAME -->` nor `<!-- not run: REASON -->` is above it"
    )


def test_every_name_of_a_run_block_is_used_by_a_test() -> None:
    """A block that no test runs would be a promise that nothing keeps."""
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))

    names = {block.run for block in code_blocks() if block.run}
    assert {name for name in names if f'"{name}"' not in tests} == set()


def test_python_blocks_compile() -> None:
    for block in code_blocks():
        if block.language == "python":
            compile(block.body, str(block), "exec")


def test_shell_blocks_name_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in code_blocks():
        if block.language in ("sh", "bash"):
            assert set(re.findall(r"\bmake ([a-z-]+)", block.body)) <= targets, block


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_at_most_120_characters_wide(page: Path) -> None:
    inside, wide = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        limit = MAX_ROW_WIDTH if line.startswith("|") else MAX_WIDTH
        if not inside and len(line) > limit:
            wide.append(f"{page.relative_to(ROOT)}:{number}")
    assert wide == []


def test_the_readme_fits_on_a_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """mkdocs checks those inside docs/; README and the other pages link to files as well."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Rooms were renamed once, and pages went on naming files that were gone."""
    rooms = "activities|avatar_sessions|bench|chaos|demo|deploy|docs|examples|liveavatar_lite"
    rooms += "|liveavatar_simulator|owner|tests|viewer|workers|workflows"
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    made_later = {"bench/report.json", "viewer/static/node_modules"}
    assert [n for n in named if n not in made_later and not (ROOT / n).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_names_that_a_page_uses_are_in_the_code(page: Path) -> None:
    """Classes were renamed once, and pages went on with the old names."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+\.)*([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\(.*?\)|\.\w+)*`", text))
    of_temporal = {"AllowDuplicate", "TerminateExisting", "TerminateIfRunning", "UseExisting"}
    assert named - of_temporal - _words_of_the_code() == set()


@cache
def _words_of_the_code() -> frozenset[str]:
    rooms = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").exists()]
    sources = [path for room in rooms for path in room.rglob("*.py")]
    sources += (ROOT / "viewer" / "static").glob("*.js")
    return frozenset(
        word for path in sources for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    )
