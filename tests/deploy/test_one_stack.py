"""Servers are started in `deploy/local` and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from deploy.local.settings import ROOT

ROOMS = ("bench", "chaos", "demo", "deploy", "examples", "tests", "viewer", "workers")
STACK = ROOT / "deploy" / "local"
OWN_COMMAND_LINES = {
    "tests/liveavatar_simulator/test_cli.py",  # the simulator's own command line
    "tests/workers/test_process.py",  # a worker's command line and signals
    "tests/workers/test_settings.py",
}
MODULES = ("workers", "liveavatar_simulator")
PROGRAMS = ("temporal", "livekit-server")
RELAY_CALLS = {"open_connection", "start_server"}
NO_RELAYS = {
    "tests/deploy/local/test_relay.py",  # a client and a server with a relay between them
    "tests/liveavatar_simulator/service/test_http_server.py",  # a client of the server under test
}


@cache
def sources() -> list[tuple[str, ast.Module]]:
    """Every source outside the stack: its path in the checkout, and its syntax tree."""
    return list(_sources())


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if STACK not in path.parents and "node_modules" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def words_of(node: ast.AST) -> list[str]:
    """The string literals of a list, tuple or call, in their order."""
    elements: list[ast.expr] = []
    if isinstance(node, ast.List | ast.Tuple):
        elements = node.elts
    elif isinstance(node, ast.Call):
        elements = node.args
    flat = [
        inner
        for one in elements
        for inner in (
            one.value.elts
            if isinstance(one, ast.Starred) and isinstance(one.value, ast.Tuple)
            else [one]
        )
    ]
    return [
        one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else ""
        for one in flat
    ]


def starts_a_server(node: ast.AST) -> bool:
    words = words_of(node)
    by_module = any(first == "-m" and second in MODULES for first, second in pairwise(words))
    by_program = isinstance(node, ast.List) and bool(words) and words[0] in PROGRAMS
    return by_module or by_program


def test_nothing_else_starts_temporal_livekit_the_simulator_or_a_worker() -> None:
    """The simulator was started in three places and a worker in six, each with other variables."""
    found = {
        f"{file}:{node.lineno}"
        for file, tree in sources()
        if file not in OWN_COMMAND_LINES
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple | ast.Call) and starts_a_server(node)
    }

    assert not found, "use deploy.local.start_...: see deploy/local/__init__.py"


def test_nothing_else_relays_tcp_connections() -> None:
    """Five relays were written by hand: a function that both accepts and opens connections."""
    found = set()
    for file, tree in sources():
        called = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        if called >= RELAY_CALLS:
            found.add(file)

    assert not found - NO_RELAYS, "use deploy.local.relay.TcpRelay"


def test_the_check_recognises_a_server_that_is_started(tmp_path: Path) -> None:
    tree = ast.parse('subprocess.run([*(sys.executable, "-m", "workers", "--role", "all")])')

    assert any(starts_a_server(node) for node in ast.walk(tree))
