"""docs/reference/contract.md serves backends in other languages: it is run and compared."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from temporalio.client import Client

from avatar_sessions import Seal
from avatar_sessions.contract import messages, names, reports
from avatar_sessions.contract.states import (
    TRANSITIONS,
    CommandOutcome,
    EndReason,
    SessionState,
    UtteranceOutcome,
)
from deploy.local.binaries import Binary, find_temporal
from deploy.local.settings import ROOT, LocalSettings
from deploy.local.temporal import TemporalServer

DOC = (ROOT / "docs" / "reference" / "contract.md").read_text()
COMMAND_TIMEOUT_S = 40.0
BUILD_TIMEOUT_S = 180.0
# The fields that they share are in the table of CommandBase.
COMMANDS = (
    messages.Speak,
    messages.Interrupt,
    messages.SetPose,
    messages.KeepAlive,
    messages.End,
)


def blocks(mark: str, language: str) -> list[str]:
    """The code blocks under a mark, in order."""
    return re.findall(rf"<!-- run: {mark} -->\n```{language}\n(.*?)```", DOC, re.DOTALL)


def commands() -> list[str]:
    """Every marked shell command, in order; the page follows one session from start to end."""
    return [part for block in blocks("contract", "bash") for part in block.strip().split("\n\n")]


def documented_models() -> list[type[BaseModel]]:
    models = {**vars(messages), **vars(reports)}
    named = [models.get(name) for name in re.findall(r"^### `(\w+)`$", DOC, re.M)]
    return [one for one in named if isinstance(one, type) and issubclass(one, BaseModel)]


def table_under(heading: str) -> list[str]:
    """First cells of the first table under a heading."""
    section = DOC.split(f"\n### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.M)


@pytest.fixture(scope="module")
def temporal_cli() -> Path:
    """The ``temporal`` program that the stack resolves."""
    source = find_temporal(LocalSettings(), sys.stderr)
    found = source.path if isinstance(source, Binary) else shutil.which("temporal")
    if found is None:
        pytest.skip("no `temporal` program: only a running server, or the SDK's own download")
    return Path(found)


@pytest.fixture
def environment(
    temporal: TemporalServer, client: Client, clip_folder: Path, temporal_cli: Path
) -> Mapping[str, str]:
    """A terminal beside the stack."""
    return {
        "PATH": f"{temporal_cli.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(clip_folder),  # hides the developer's own Temporal configuration
        "TEMPORAL_ADDRESS": temporal.address,
        "TEMPORAL_NAMESPACE": client.namespace,
    }


async def shell(command: str, environment: Mapping[str, str]) -> str:
    """What a command shows; it must succeed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(
        f"{command} --output json", stdout=pipe, stderr=pipe, env=dict(environment)
    )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{command}\n{out.decode()}{err.decode()}"
    return out.decode()


def as_report(answer: Any) -> reports.SessionReport:
    return reports.SessionReport.model_validate(without_nulls(answer["result"]))


def without_nulls(value: Any) -> Any:
    """What the command line shows, less its nulls: it makes null of an empty list."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


async def test_the_commands_run_a_session_from_start_to_end(
    environment: Mapping[str, str], seal: Seal
) -> None:
    shown = {command: await shell(command, environment) for command in commands()}

    def answer(*words: str) -> Any:
        found = [out for command, out in shown.items() if all(one in command for one in words)]
        assert len(found) == 1, f"one command of {words}"
        return json.loads(found[0])

    access = reports.SealedAccess.model_validate(answer("--name attach", "ada")["result"])
    assert seal.open(access.viewer.sealed_token).get_secret_value().startswith("eyJ")
    assert answer("update-name attach")["updateResult"]["state"] == "LIVE"
    spoken = reports.CommandResult.model_validate(without_nulls(answer("hello-1")["result"]))
    assert spoken.outcome is UtteranceOutcome.COMPLETED
    status = without_nulls(answer("workflow query")["queryResult"][0])
    assert reports.SessionStatus.model_validate(status).state is SessionState.LIVE
    report = as_report(answer("result", "support-42"))
    assert report.end_reason is EndReason.REQUESTED
    assert [one.id for one in report.utterances] == ["greeting", "hello-1"]
    assert report.ignored_count == 0
    other = as_report(answer("result", "support-43"))
    assert other.end_reason is EndReason.CANCELLED


def test_every_message_has_exactly_its_fields() -> None:
    tables = {model: table_under(f"`{model.__name__}`") for model in documented_models()}

    base = list(messages.CommandBase.model_fields)
    for model, fields in tables.items():
        own = [field for field in model.model_fields if model not in COMMANDS or field not in base]
        assert sorted(fields) == sorted(own), model.__name__
    public = {
        model
        for model in (*vars(messages).values(), *vars(reports).values())
        if isinstance(model, type)
        and issubclass(model, messages.Incoming | reports.Outgoing)
        and model not in (messages.Incoming, reports.Outgoing)
    }
    assert {model.__name__ for model in public} == {model.__name__ for model in tables}


def test_the_table_of_states_has_the_transitions_of_the_code() -> None:
    section = DOC.split("\n| from | to |\n", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.M)
    drawn = {(one, other) for one, others in rows for other in re.findall(r"`([A-Z]+)`", others)}

    assert drawn == {(one, other) for one, others in TRANSITIONS.items() for other in others}


def test_every_name_outcome_and_reason_is_listed() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (ENDED|FAILED) \|", DOC, re.M))

    assert table == {reason.value: reason.final_state.value for reason in EndReason}
    words = [*CommandOutcome, *UtteranceOutcome, *names.SEARCH_ATTRIBUTES]
    words += [names.WORKFLOW_TYPE, names.SESSIONS_TASK_QUEUE, names.QUERY_STATUS]
    words += [names.UPDATE_ATTACH, names.UPDATE_PERFORM]
    words += [names.SIGNAL_SPEAK, names.SIGNAL_INTERRUPT, names.SIGNAL_SET_POSE]
    words += [names.SIGNAL_KEEP_ALIVE, names.SIGNAL_END, names.SIGNAL_OWNER_LOST]
    assert [word for word in words if f"`{word}`" not in DOC] == []


def program_of(language: str, folder: Path) -> list[str]:
    """The page's program that opens a sealed value, ready to be run."""
    (source,) = blocks("open", language)
    tool = {"python": sys.executable, "js": shutil.which("node"), "go": shutil.which("go")}[
        language
    ]
    if tool is None:
        pytest.skip(f"nothing here runs {language}")
    path = folder / f"open.{'cjs' if language == 'js' else language}"
    path.write_text(source)
    if language != "go":
        return [tool, str(path)]
    built = folder / "open"
    subprocess.run([tool, "build", "-o", built, path], check=True, timeout=BUILD_TIMEOUT_S)
    return [str(built)]


@pytest.mark.timeout(BUILD_TIMEOUT_S + COMMAND_TIMEOUT_S)
@pytest.mark.parametrize("language", ["python", "js", "go"])
def test_a_sealed_value_is_opened_by_the_pages_program(
    language: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Long, short and block-sized values, under the newer and the older of two keys."""
    program = program_of(language, tmp_path_factory.mktemp("open"))
    newer, older = Seal.new_key(), Seal.new_key()
    keys = ",".join(key.get_secret_value() for key in (newer, older))

    for secret, key in [("token" * 300, newer), ("t", older), ("sixteen letters.", older)]:
        opened = subprocess.run(
            program,
            input=Seal([key]).seal(secret),
            env=dict(os.environ) | {"AVATAR_SESSIONS_SEAL_KEYS": keys},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert (opened.stdout.strip(), opened.returncode) == (secret, 0), opened.stderr
