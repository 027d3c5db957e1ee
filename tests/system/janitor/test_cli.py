"""``avatar-sessions janitor``, as a process of its own."""

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
from tests.system.janitor.conftest import JanitorWorld

WITHIN_S = 45.0


@dataclass(frozen=True)
class Ran:
    """A command that has left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def cli(world: JanitorWorld, *words: str) -> Ran:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "avatar_sessions.cli.main", "janitor", *words),
        stdout=pipe,
        stderr=pipe,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "TEMPORAL_ADDRESS": world.client.service_client.config.target_host,
            "TEMPORAL_NAMESPACE": world.client.namespace,
        },
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def test_a_dry_run_shows_what_would_be_ended_and_ends_nothing(world: JanitorWorld) -> None:
    orphan, stranger = await world.orphan(), await world.billed()
    async with world.janitor():
        ran = await cli(world, "--dry-run")
    lines = ran.out.splitlines()
    assert ran.code == 0, ran.err
    assert lines[0].split() == ["WHAT", "ID", "DECISION", "WORKFLOW", "WHY"]
    assert lines[1].startswith(f"session  {orphan}  would stop")
    assert stranger in lines[2]
    assert lines[3] == (
        "dry run: 2 sessions billed, 0 rooms of ours: 1 would be ended, 0 failed, 0 running,"
        " 1 strangers, 0 in doubt"
    )
    assert world.is_billed(orphan)


async def test_without_it_the_round_is_made(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    async with world.janitor():
        ran = await cli(world, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["sessions"][0]["provider_session_id"] == orphan
    assert ran.json["sessions"][0]["decision"] == "stopped"
    assert not world.is_billed(orphan)


async def test_a_round_that_could_not_see_leaves_with_1_and_says_so(world: JanitorWorld) -> None:
    world.outage.list_fails = True
    async with world.janitor():
        ran = await cli(world)
    assert ran.code == 1
    assert "problem: LiveAvatar's sessions could not be listed" in ran.out


@pytest.mark.timeout(90)
async def test_without_a_janitor_it_says_how_to_run_one_and_withdraws_the_round(
    world: JanitorWorld,
) -> None:
    """Else it would be made later, when nobody looks."""
    orphan = await world.orphan()
    ran = await cli(world, "--wait-s", "8")
    assert ran.code == 4
    assert "no janitor answered" in ran.err
    assert "python -m workers --role janitor" in ran.err
    async with world.janitor():
        running = f"WorkflowType = '{names.JANITOR_WORKFLOW_TYPE}' AND ExecutionStatus = 'Running'"
        assert (await world.client.count_workflows(running)).count == 0
    assert world.is_billed(orphan)
