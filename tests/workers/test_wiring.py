"""What the workflow sandbox loads anew for each session, and what it passes through.

A workflow module is loaded anew for each session. Loading its parts, too, took a third of a
session's first step: they are passed through, and must not need a sandbox.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.worker.workflow_sandbox._importer import Importer
from temporalio.worker.workflow_sandbox._restrictions import RestrictionContext

import workflows.parts
from workers.wiring import PASSED_THROUGH, workflow_runner

PARTS = [f"workflows.parts.{one.name}" for one in pkgutil.iter_modules(workflows.parts.__path__)]
WORKFLOWS = ["workflows.session", "workflows.janitor"]
PURE_MODULES = frozenset(
    {
        "__future__",
        "asyncio",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "json",
        "shlex",
        "typing",
        "pydantic",
        "temporalio",
        "avatar_sessions.contract",
        "workflows.parts",
    }
)
"""What a part may import: nothing that reads a clock, a file or a socket when it is used here."""
IMPURE_NAMES = frozenset({"open", "print", "input", "exec", "eval", "breakpoint", "__import__"})


def loaded_by_a_new_session(name: str) -> ModuleType:
    """The module as a new session's sandbox imports it."""
    importer = Importer(workflow_runner().restrictions, RestrictionContext())
    with importer.applied():
        return __import__(name, fromlist=("any",))


def source_of(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text())


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "absolute imports only"
            yield node.module


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_module_is_loaded_anew_for_each_session(name: str) -> None:
    first, second = loaded_by_a_new_session(name), loaded_by_a_new_session(name)
    assert first is not second
    assert importlib.import_module(name) not in (first, second)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_loaded_once_for_all_sessions(name: str) -> None:
    assert loaded_by_a_new_session(name) is importlib.import_module(name)


def test_only_whole_packages_are_passed_through() -> None:
    """A list of modules was kept by hand: a new part was loaded anew until someone noticed."""
    for name in PASSED_THROUGH:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.submodule_search_locations is not None, f"{name} is a module, not a package"
    passed = workflow_runner().restrictions.passthrough_modules
    assert passed == SandboxRestrictions.default.passthrough_modules | set(PASSED_THROUGH)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_imports_nothing_that_does_io(name: str) -> None:
    for imported in imports_of(source_of(name)):
        packages = {imported.rsplit(".", cut)[0] for cut in range(imported.count(".") + 1)}
        assert packages & PURE_MODULES, f"{name} imports {imported}"


@pytest.mark.parametrize("name", PARTS)
def test_a_part_keeps_no_state_between_sessions(name: str) -> None:
    for node in ast.walk(source_of(name)):
        assert not isinstance(node, ast.Global), f"{name} assigns to a global"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_NAMES, f"{name} calls {node.func.id}"
