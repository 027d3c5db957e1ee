"""The command line as a process: its output and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client

from avatar_sessions import AvatarSessions, Seal, SessionReport, SessionRequest, SessionStatus
from deploy.local.ports import free_port
from deploy.local.settings import ROOT
from deploy.local.temporal import TemporalServer
from liveavatar_lite import WAYNE_AVATAR_ID
from liveavatar_simulator import LiveAvatarSimulator

UNKNOWN_AVATAR = "99999999-9999-4999-8999-999999999999"
WITHIN_S = 30.0


@dataclass(frozen=True)
class Ran:
    """A command that has exited."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run(words: tuple[str, ...], environment: Mapping[str, str]) -> Ran:
    process = await launched(words, environment)
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def launched(
    words: tuple[str, ...], environment: Mapping[str, str], *python: str
) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *python, "-m", "avatar_sessions.cli.main", *words),
        stdout=pipe,
        stderr=pipe,
        env=dict(environment),
        cwd=ROOT,
    )


Cli = Callable[..., Awaitable[Ran]]


@pytest.fixture
def environment(temporal: TemporalServer, client: Client, seal_key: SecretStr) -> dict[str, str]:
    """The environment of a terminal beside the stack."""
    return {
        "PATH": os.environ["PATH"],
        "TEMPORAL_ADDRESS": temporal.address,
        "TEMPORAL_NAMESPACE": client.namespace,
        "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
    }


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """Runs ``avatar-sessions`` with these words; keywords change the environment."""

    async def command(*words: str, **changes: str) -> Ran:
        return await run(words, environment | changes)

    return command


async def start(cli: Cli, key: str, *words: str) -> Ran:
    return await cli("start", key, "--avatar-id", WAYNE_AVATAR_ID, "--sandbox", *words)


@pytest.mark.usefixtures("sessions")
class TestSession:
    async def test_from_start_to_report(self, cli: Cli, key: str) -> None:
        started = await start(cli, key, "--tenant", "acme", "--say", "short.wav", "--attach")
        spoken = await cli("speak", key, "--file", "short.wav")
        rejected = await cli("speak", key, "--file", "nothing.wav")
        asked = await cli("speak", key, "--file", "long.wav", "--no-wait", "--command-id", "story")
        interrupted = await cli("interrupt", key)
        posed = await cli("pose", key, "listening")
        kept = await cli("keep-alive", key)
        status = await cli("status", key)
        listed = await cli("list", "--tenant", "acme")
        ended = await cli("end", key)

        assert (started.code, started.err) == (0, "")
        assert f"{key}  LIVE" in started.out
        assert "hidden" in started.out
        assert spoken == Ran(0, "completed: 0.2 s of 0.2 s heard\n", "")
        assert rejected.code == 1
        assert "ClipMissing" in rejected.out
        assert asked == Ran(0, "requested: story\n", "")
        assert [one.code for one in (interrupted, posed, kept)] == [0, 0, 0]
        assert "pose        listening\n" in status.out
        assert listed.out.splitlines()[1].split()[:2] == [key, "LIVE"]
        assert ended.code == 0
        assert "2 completed, 1 interrupted, 1 rejected" in ended.out
        assert "nothing left behind" in ended.out
        assert await cli("report", key) == ended

    async def test_json_output_has_the_contracts_fields(self, cli: Cli, key: str) -> None:
        started = await start(cli, key, "--json")
        access = await cli("--json", "attach", key)
        status = await cli("status", key, "--json")
        ended = await cli("end", "--json", key)

        assert started.json["workflow_id"] == f"avatar-session:{key}"
        assert access.json["viewer"]["token"]
        assert access.json["agent"]["livekit_url"].startswith("ws")
        assert SessionStatus.model_validate(status.json).state == "LIVE"
        assert SessionReport.model_validate(ended.json).session_key == key

    async def test_tokens_are_shown_on_request_only(self, cli: Cli, key: str) -> None:
        await start(cli, key, "--own-room", "--attach")
        token = (await cli("attach", key, "--identity", "ada", "--json")).json["viewer"]["token"]

        hidden = await cli("attach", key)
        shown = await cli("attach", key, "--show-tokens")

        assert "eyJ" in token
        assert "eyJ" not in hidden.out
        assert "eyJ" in shown.out

    async def test_a_failed_session_exits_with_1_and_its_reason(self, cli: Cli, key: str) -> None:
        started = await cli("start", key, "--avatar-id", UNKNOWN_AVATAR, "--attach")
        report = await cli("report", key)

        assert (started.code, started.out) == (1, "")
        assert "Avatar not found" in started.err
        assert report.code == 1
        assert "start_failed" in report.out

    async def test_watch_shows_changes_until_the_end(
        self, cli: Cli, environment: dict[str, str], sessions: AvatarSessions, key: str
    ) -> None:
        await start(cli, key, "--attach")
        watching = await launched(("watch", key, "--json", "--every-s", "0.1"), environment)
        assert watching.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            first = json.loads(await watching.stdout.readline())
            await sessions.get(key).end()
            rest, errors = await watching.communicate()

        assert first["state"] == "LIVE"
        assert json.loads(rest.splitlines()[-1])["state"] == "ENDED"
        assert (watching.returncode, errors) == (0, b"")


class TestExitCodes:
    async def test_a_missing_or_ended_session_is_3(self, cli: Cli, key: str) -> None:
        missing = await cli("interrupt", key)
        missing_json = await cli("status", key, "--json")
        await start(cli, key)
        await cli("end", key)
        over = await cli("interrupt", key)

        assert missing == Ran(3, "", f"avatar-sessions: there is no session '{key}'\n")
        assert json.loads(missing_json.err) == {
            "error": "SessionNotFound",
            "message": f"there is no session '{key}'",
            "exit_code": 3,
        }
        assert (over.code, over.err.count("\n")) == (3, 1)

    async def test_an_unreachable_temporal_is_4_and_says_what_to_do(
        self, cli: Cli, key: str
    ) -> None:
        ran = await cli("status", key, TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")

        assert ran.code == 4
        assert "TEMPORAL_ADDRESS" in ran.err

    async def test_no_workers_is_4_and_says_how_to_start_one(
        self, cli: Cli, temporal: TemporalServer, key: str
    ) -> None:
        empty = (await temporal.new_namespace("no-workers")).namespace
        await cli("start", key, "--avatar-id", WAYNE_AVATAR_ID, TEMPORAL_NAMESPACE=empty)

        ran = await cli("attach", key, TEMPORAL_NAMESPACE=empty)

        assert ran.code == 4
        assert "python -m workers" in ran.err

    async def test_a_refused_or_expired_command_is_5(
        self, cli: Cli, sessions: AvatarSessions, simulator: LiveAvatarSimulator, key: str
    ) -> None:
        simulator.faults.slow_start_s = 10.0
        await start(cli, key, "--command-ttl-s", "0.2")
        expired = await cli("interrupt", key)
        sealed = await cli("attach", key, AVATAR_SESSIONS_SEAL_KEYS="")

        assert (expired.code, sealed.code) == (5, 5)
        assert "expired" in expired.err
        assert "AVATAR_SESSIONS_SEAL_KEYS" in sealed.err

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("dance",),
            ("pose", "k", "dancing"),
            ("start", "k"),
            ("start", "k", "--avatar-id", "no-uuid"),
            ("start", "k", "--avatar-id", UNKNOWN_AVATAR, "--max-duration-s", "1"),
            ("start", "a b", "--avatar-id", UNKNOWN_AVATAR),
            ("speak", "k"),
            ("speak", "k", "--url", "ftp://example.org/x.wav"),
            ("speak", "k", "--file", "x.wav", "--seal"),
            ("speak", "k", "--file", "x.wav", "--ttl-s", "nan"),
            ("list", "--state", "SLEEPING"),
            ("list", "--tenant", "half a character: \udcff"),
        ],
    )
    async def test_wrong_usage_is_2_and_says_why(self, cli: Cli, words: tuple[str, ...]) -> None:
        ran = await cli(*words)

        assert (ran.code, ran.out) == (2, "")
        assert ran.err

    async def test_ctrl_c_while_it_waits_exits_immediately_without_output(
        self,
        environment: dict[str, str],
        sessions: AvatarSessions,
        key: str,
        request_: SessionRequest,
    ) -> None:
        await sessions.start(key, request_)
        process = await launched(("watch", key), environment)
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            await process.stdout.readline()

            process.send_signal(signal.SIGINT)

            _, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")

    @pytest.mark.parametrize("loading", [b"pydantic_core", b"temporalio.api"])
    async def test_ctrl_c_while_it_loads_exits_immediately_without_a_traceback(
        self, environment: dict[str, str], key: str, loading: bytes
    ) -> None:
        """It came out of an import as a traceback, once turned into an error by pydantic."""
        process = await launched(("report", key), environment, "-X", "importtime")
        assert process.stderr is not None
        async with asyncio.timeout(WITHIN_S):
            while loading not in await process.stderr.readline():
                pass

            process.send_signal(signal.SIGINT)

            out, err = await process.communicate()
        assert (process.returncode, out) == (130, b"")
        assert b"Traceback" not in err

    async def test_help_names_every_exit_code(self, cli: Cli) -> None:
        """Into a pipe it came out empty: the process left without flushing its output."""
        ran = await cli("--help")

        assert ran.code == 0
        assert all(f"\n  {code} " in ran.out for code in (0, 1, 2, 3, 4, 5, 130))

    async def test_version_is_the_installed_packages(self, cli: Cli) -> None:
        ran = await cli("--version")

        assert ran == Ran(0, f"avatar-sessions {version('liveavatar-sessions')}\n", "")

    async def test_a_misspelt_variable_is_named_on_standard_error(self, cli: Cli) -> None:
        """It was ignored without a word, and `attach` said that no key is set."""
        text = await cli("new-seal-key", AVATAR_SESSIONS_SEAL_KEY="x")
        document = await cli("new-seal-key", "--json", AVATAR_SESSIONS_SEAL_KEY="x")

        warning = "AVATAR_SESSIONS_SEAL_KEY is set and is not a setting: did you mean"
        warning += " AVATAR_SESSIONS_SEAL_KEYS?"
        assert (text.code, text.err) == (0, f"avatar-sessions: {warning}\n")
        assert json.loads(document.err) == {"warning": warning}

    async def test_a_new_seal_key_works(self, cli: Cli) -> None:
        key = SecretStr((await cli("new-seal-key")).out.strip())
        other = SecretStr((await cli("new-seal-key", "--json")).json["seal_key"])

        assert Seal([key]).open(Seal([key]).seal("x")).get_secret_value() == "x"
        assert key != other
