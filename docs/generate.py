"""Writes the reference pages that come from the code: settings, command lines, errors.

``python -m docs.generate`` writes them, ``--check`` only compares and exits with 1 if one is out of
date; `tests/docs/test_generated.py` does the latter. Prose belongs into the code's docstrings, not
into these pages.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

import avatar_sessions.errors
import liveavatar_lite.errors
from avatar_sessions.cli.main import _parser as avatar_sessions_parser
from avatar_sessions.settings import ClientSettings
from bench.__main__ import _parser as bench_parser
from chaos.__main__ import _parser as chaos_parser
from deploy.local.settings import ROOT, LocalSettings
from liveavatar_simulator.cli import _parser as simulator_parser
from liveavatar_simulator.settings import SimulatorSettings
from workers.settings import WorkerSettings

FOLDER: Final = Path(__file__).parent / "reference"
WIDTH: Final = 100
NOTE: Final = "<!-- written by `make reference`: change the code's docstrings instead -->"

BOUNDS: Final = {
    "gt": "more than {}",
    "ge": "at least {}",
    "lt": "less than {}",
    "le": "at most {}",
    "pattern": "matches `{}`",
}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    if parser.parse_args().check:
        stale = out_of_date()
        print("\n".join(stale), file=sys.stderr)
        return 1 if stale else 0
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
    return 0


def out_of_date() -> list[str]:
    """The generated pages that do not say what the code says."""
    return [
        f"docs/reference/{name} is out of date: run `make reference`"
        for name, page in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != page()
    ]


# ------------------------------------------------------------------------------ settings


def settings_page() -> str:
    """Every setting of every model."""
    return _page(
        "Settings",
        "Every setting is an environment variable. Each program reads its settings once, at its"
        " start, into one pydantic-settings model. A value that does not fit stops the program"
        " with a sentence that names the variable.",
        "## Workers",
        "`python -m workers` reads `WorkerSettings` (`workers/settings.py`). Where Temporal is, it"
        " learns from Temporal's own [environment configuration][temporal]: `TEMPORAL_ADDRESS`,"
        " `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY` and so on.",
        *_settings(WorkerSettings),
        "## Client and command line",
        "`AvatarSessions.connect()` and `avatar-sessions` read `ClientSettings`"
        " (`avatar_sessions/settings.py`), and Temporal's environment configuration.",
        *_settings(ClientSettings),
        "## Simulator",
        "`liveavatar-simulator` reads `SimulatorSettings` (`liveavatar_simulator/settings.py`). In"
        " a test, pass the same names in lower case: `SimulatorSettings(port=0)`.",
        *_settings(SimulatorSettings),
        "## Development stack",
        "`make demo`, `make test`, `make bench` and `make chaos` read `LocalSettings`"
        " (`deploy/local/settings.py`).",
        *_settings(LocalSettings),
        "[temporal]: https://docs.temporal.io/develop/environment-configuration",
    )


def _settings(model: type[BaseSettings]) -> Iterator[str]:
    yield from (_setting(model, name, field) for name, field in model.model_fields.items())


def _setting(model: type[BaseSettings], name: str, field: FieldInfo) -> str:
    facts = [_default(field), *_bounds(field)]
    head = _wrapped(f"- **`{_variable(model, name, field)}`** ({', '.join(facts)})", "  ")
    if not field.description:
        return head
    return f"{head}  \n{textwrap.indent(_wrapped(field.description, ''), '  ')}"


def _variable(model: type[BaseSettings], name: str, field: FieldInfo) -> str:
    alias = field.validation_alias or field.alias
    if isinstance(alias, AliasChoices):
        return next(str(one) for one in alias.choices if str(one).isupper())
    if alias is not None:
        return str(alias)
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    shown = _shown(field.default)
    return f"default `{shown}`" if shown else "not set by default"


def _shown(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, SecretStr):  # defaults are no secrets: the simulator's, for example
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(_shown(one) for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_relative_to(ROOT) else str(value)
    return str(value)


def _bounds(field: FieldInfo) -> Iterator[str]:
    for rule in field.metadata:
        for attribute, words in BOUNDS.items():
            bound = getattr(rule, attribute, None)
            if bound is not None:
                yield words.format(bound)


# ------------------------------------------------------------------------- command lines


def cli_page() -> str:
    """The installed programs, from their parsers."""
    return _page(
        "Command line",
        "Two programs are installed: `avatar-sessions` with the client, `liveavatar-simulator`"
        " with the extra `simulator`. A worker is `python -m workers`: see"
        " [Run](../operate/run.md).",
        *_program(avatar_sessions_parser()),
        *_program(simulator_parser()),
        "## In a checkout",
        "`make bench ARGS=…` and `make chaos ARGS=…` pass their arguments to these programs.",
        *_program(bench_parser(), level="###"),
        *_program(chaos_parser(), level="###"),
    )


def _program(parser: argparse.ArgumentParser, level: str = "##") -> Iterator[str]:
    yield f"{level} `{parser.prog}`"
    yield from _command(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield f"### `{command.prog}`"
                yield from _command(command)
    if parser.epilog is not None:
        text = parser.epilog.strip()
        yield f"```text\n{text}\n```" if "\n" in text else _prose(text)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    if parser.description is not None:
        yield _prose(parser.description)
    lines = [
        _wrapped(f"- {_words(action)}{_meaning(action)}", "  ")
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]
    if lines:
        yield "\n".join(lines)


def _words(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else None
    if value is None and action.choices is not None:
        value = ",".join(str(choice) for choice in action.choices)
    if not action.option_strings:
        return f"`{value or action.dest}`"
    if action.nargs == 0:
        return ", ".join(f"`{word}`" for word in action.option_strings)
    value = value or action.dest.upper()
    if action.nargs == "?":
        value = f"[{value}]"
    return ", ".join(f"`{word} {value}`" for word in action.option_strings)


def _meaning(action: argparse.Action) -> str:
    needed = "required" if action.option_strings and action.required else ""
    parts = [part for part in (action.help or "", needed) if part]
    return f": {'; '.join(parts)}" if parts else ""


# -------------------------------------------------------------------------------- errors


def errors_page() -> str:
    """The trees of errors."""
    return _page(
        "Errors",
        "The client's errors form one tree, the LITE library's another. On purpose, neither package"
        " raises anything else, except that the LITE library raises `ValueError` or `TypeError` for"
        " an argument that can never work.",
        "## `avatar_sessions.errors`",
        *_tree(avatar_sessions.errors, "AvatarSessionsError"),
        "## `liveavatar_lite.errors`",
        *_tree(liveavatar_lite.errors, "LiteError"),
    )


def _tree(module: ModuleType, root: str) -> Iterator[str]:
    lines = inspect.cleandoc(module.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == root)
    end = next((n for n in range(start, len(lines)) if not lines[n].strip()), len(lines))
    yield "\n".join(["```text", *lines[start:end], "```"])
    for line in lines[start:end]:
        name = line.lstrip("│├└─ ").split()[0]
        yield f"### `{name}`"
        yield from _docstring(getattr(module, name))


def _docstring(error: type[Exception]) -> Iterator[str]:
    bases = ", ".join(f"`{base.__name__}`" for base in _public_bases(error))
    yield f"A kind of {bases}."
    for part in inspect.cleandoc(error.__doc__ or "").split("\n\n"):
        if part.startswith("Attributes:"):
            yield _attributes(part)
        else:
            yield _prose(part)


def _public_bases(error: type[Exception]) -> Iterator[type[Exception]]:
    for base in error.__bases__:
        if base.__name__.startswith("_"):
            yield from _public_bases(base)
        else:
            yield base


def _attributes(part: str) -> str:
    entries = re.split(r"\n(?=\S)", textwrap.dedent(part.partition("\n")[2]))
    shown = []
    for entry in entries:
        name, _, meaning = " ".join(entry.split()).partition(": ")
        shown.append(_wrapped(f"- `{name}`: {_code(meaning)}", "  "))
    return "\n".join(shown)


# ---------------------------------------------------------------------------------- text


def _page(title: str, *parts: str) -> str:
    texts = (part if part.startswith(_READY) else _prose(part) for part in parts)
    return "\n\n".join([NOTE, f"# {title}", *texts]) + "\n"


_READY: Final = ("#", "|", "```", "- ", "[temporal]")


def _prose(text: str) -> str:
    return _wrapped(_code(" ".join(text.split())), "")


def _code(text: str) -> str:
    """Sphinx roles and double backticks, as Markdown's code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _wrapped(text: str, indent: str) -> str:
    return "\n".join(
        textwrap.wrap(
            _code(" ".join(text.split())),
            WIDTH,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
}

if __name__ == "__main__":
    sys.exit(main())
