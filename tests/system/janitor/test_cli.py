"""`avatar-sessions janitor` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from avatar_sessions.contract import names
from deploy.local.settings import ROOT
from tests.support.platforms.janitor import JanitorEnvironment

WITHIN_S = 45.0


@dataclass(frozen=True)
class Ran:
    """A command that has exited."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def cli(environment: JanitorEnvironment, *words: str) -> Ran:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "avatar_sessions.cli.main", "janitor", *words),
        stdout=pipe,
        stderr=pipe,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "TEMPORAL_ADDRESS": environment.client.service_client.config.target_host,
            "TEMPORAL_NAMESPACE": environment.client.namespace,
        },
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def test_a_dry_run_shows_what_would_be_ended_and_ends_nothing(
    environment: JanitorEnvironment,
) -> None:
    orphan, stranger = await environment.orphan(), await environment.billed()
    async with environment.janitor():
        ran = await cli(environment, "--dry-run")
    lines = ran.out.splitlines()
    assert ran.code == 0, ran.err
    assert lines[0].split() == ["WHAT", "ID", "DECISION", "WORKFLOW", "WHY"]
    assert lines[1].startswith(f"session  {orphan}  would stop")
    assert stranger in lines[2]
    assert lines[3] == (
        "dry run: 2 sessions billed, 0 rooms: 1 would be ended, 0 failed, 0 running,"
        " 1 strangers, 0 in doubt"
    )
    assert environment.is_billed(orphan)


async def test_without_it_the_round_is_made(environment: JanitorEnvironment) -> None:
    orphan = await environment.orphan()
    async with environment.janitor():
        ran = await cli(environment, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["sessions"][0]["provider_session_id"] == orphan
    assert ran.json["sessions"][0]["decision"] == "stopped"
    assert not environment.is_billed(orphan)


async def test_a_failed_round_exits_with_1_and_its_reason(
    environment: JanitorEnvironment,
) -> None:
    environment.outage.list_fails = True
    async with environment.janitor():
        ran = await cli(environment)
    assert ran.code == 1
    assert "problem: LiveAvatar's sessions could not be listed" in ran.out


@pytest.mark.timeout(90)
async def test_without_a_janitor_it_says_how_to_run_one_and_withdraws_the_round(
    environment: JanitorEnvironment,
) -> None:
    """Otherwise it would be made later, unattended."""
    orphan = await environment.orphan()
    ran = await cli(environment, "--wait-s", "8")
    assert ran.code == 4
    assert "no janitor answered" in ran.err
    assert "python -m workers --role janitor" in ran.err
    async with environment.janitor():
        running = f"WorkflowType = '{names.JANITOR_WORKFLOW_TYPE}' AND ExecutionStatus = 'Running'"
        assert (await environment.client.count_workflows(running)).count == 0
    assert environment.is_billed(orphan)
