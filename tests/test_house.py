"""The house keeps its shape: unique class names, small files and functions, no circles of files.

Import directions between rooms are import-linter's (`make lint`). Reads the source as text; runs
nothing of it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from deploy.local.settings import ROOT

ROOMS = (
    "activities",
    "avatar_sessions",
    "bench",
    "chaos",
    "demo",
    "deploy",
    "examples",
    "liveavatar_lite",
    "liveavatar_simulator",
    "owner",
    "viewer",
    "workers",
    "workflows",
)
MOST_LINES = 600
MOST_FUNCTION_LINES = 60
MOST_MODULES = 15

MIRRORED_ERRORS = {
    "ConcurrencyLimit",
    "DurationOverPlan",
    "InvalidRequest",
    "NoCredits",
    "ServiceUnreachable",
    "Unauthorized",
}
"""The client's errors that tell the same fact as LITE's keep its name, as httpx's mirror
httpcore's: the names stand on the wire (failure types) and in the CLI's JSON."""


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every module below these folders of the checkout, parsed."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_a_public_class_name_stands_for_one_class() -> None:
    """A reader with grep once found 61 names that two or more classes bore."""
    places = defaultdict(list)
    for path, tree in modules(*ROOMS):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path))
    repeated = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: repeated[name] for name in repeated.keys() - MIRRORED_ERRORS} == {}
    assert repeated.keys() >= MIRRORED_ERRORS, "remove from the exception what is unique by now"
    for name in MIRRORED_ERRORS:
        assert repeated[name] == ["avatar_sessions/errors.py", "liveavatar_lite/errors.py"]


def test_no_file_holds_more_than_one_idea() -> None:
    long = {
        str(path): lines
        for path, _ in modules(*ROOMS, "tests")
        if (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for path, tree in modules(*ROOMS, "tests"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    long[f"{path}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    count: defaultdict[str, int] = defaultdict(int)
    for path, _ in modules(*ROOMS, "tests"):
        if path.name not in ("__init__.py", "__main__.py", "conftest.py"):
            count[str(path.parent)] += 1
    assert {folder: n for folder, n in count.items() if n > MOST_MODULES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path, tree in modules(*ROOMS, "tests")
        if tree.body and ast.get_docstring(tree) is None
    ]
    assert silent == []


def test_no_circle_of_files() -> None:
    """Two files that import each other are one file that was cut in the wrong place."""
    trees = dict(modules(*ROOMS))
    names = {_dotted(path): path for path in trees}
    graph = {
        name: {one for one in _imports(name, trees[path], path) if one in names and one != name}
        for name, path in names.items()
    }
    assert [sorted(circle) for circle in _circles(graph)] == []


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, tree: ast.Module, path: Path) -> Iterator[str]:
    """Modules that a module imports, wherever in it, those for type checkers alone included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if path.name != "__init__.py":  # a package's own exports are no dependency of its parts
                yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module (Tarjan, iterative by recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = set()
            while True:
                member = stack.pop()
                circle.add(member)
                if member == node:
                    break
            if len(circle) > 1:
                found.append(circle)

    for node in graph:
        if node not in index:
            visit(node)
    return found
