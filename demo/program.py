"""`make demo`: the whole system on this machine, and one session from start to end.

Connects the parts and decides when the demo ends; the calls to the session are in
`conversation.py`. Whatever ends the demo, the session is ended first, then the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from avatar_sessions.client import AvatarSessions
from avatar_sessions.contract.messages import Clip
from avatar_sessions.contract.reports import SessionReport
from avatar_sessions.contract.states import EndReason, SessionState
from avatar_sessions.errors import AvatarSessionsError
from avatar_sessions.seal import Seal, SealError
from demo.agent import echo_agent
from demo.conversation import Conversation
from demo.folder import DemoFolder
from demo.screen import Screen, counts_of
from deploy.local.binaries import (
    LiveKitSource,
    TemporalSource,
    find_livekit,
    find_temporal,
    interrupt_on_sigterm,
)
from deploy.local.errors import LocalError, ProcessDied, ServerUnavailable
from deploy.local.livekit import LiveKitServer
from deploy.local.processes import Supervisor
from deploy.local.settings import ROOT, LocalSettings
from deploy.local.stack import LocalStack, start_stack
from liveavatar_simulator.settings import SimulatorSettings
from viewer import SessionViewerSource, ViewerServer
from viewer.typed_speech import Espeak, TypedSpeech

SAMPLES = Path(__file__).with_name("samples")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORKER_VARIABLES = ("AVATAR_SESSIONS_", "OTEL_")
"""Beginnings of the environment variables that the demo's worker gets from the user's shell."""
INTERRUPTED = 130
"""Exit status for a demo that was ended before it had shown everything."""


class UtteranceFigures(BaseModel):
    """One utterance of the JSON report."""

    id: str
    outcome: str
    sent_ms: int
    heard_ms: int


class DemoReport(BaseModel):
    """What `--report FILE` writes."""

    session_key: str
    workflow_id: str
    state: str
    end_reason: str
    start_ms: int | None
    """From the request until the avatar was live, by the workflow's clock."""
    first_audio_ms: int | None
    """From requesting the first utterance until a viewer in the room heard it."""
    interrupt_ms: int | None
    """From requesting the interrupt (an update) until the reply that it is on the wire."""
    utterances: list[UtteranceFigures]
    provider: dict[str, int]
    """`started`, `stopped`, `open`: by the simulator's ledger; with `--real`, by the report."""
    viewer: dict[str, int]
    """`video_frames` decoded and `audio_ms` of audible sound, by a LiveKit subscriber."""
    urls: dict[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    once: bool
    real: bool
    report: Path | None


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of a conversation."""

    report: SessionReport
    provider: dict[str, int]
    complete: bool
    """The whole script was performed."""

    @property
    def as_requested(self) -> bool:
        """Whether the session ended because the demo requested it, and nothing is left open."""
        return (
            self.report.state is SessionState.ENDED
            and self.report.end_reason is EndReason.REQUESTED
            and self.provider["open"] == 0
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; see `--help`. The exit status is 0 only if the session ended as requested."""
    options = _options(arguments)
    screen: Screen | None = None
    folder = DemoFolder(ROOT / ".demo")
    try:
        settings = LocalSettings()
        folder = DemoFolder(settings.demo_folder)
        screen = Screen(sys.stdout, colours=settings.no_color is None)
        _check(options, settings)
        screen.title("with the real LiveAvatar, sandbox" if options.real else "demo")
        interrupt_on_sigterm()
        sources = find_temporal(settings, sys.stderr), find_livekit(settings, sys.stderr)
        with folder.in_use():
            return asyncio.run(Demo(options, settings, screen, sources, folder).run())
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]).upper() for item in error.errors())
        Screen(sys.stdout, colours=False).problem(f"not a usable value: {names}.")
    except LocalError as error:
        assert screen is not None
        screen.error(error)
    except (AvatarSessionsError, SealError) as error:
        assert screen is not None
        screen.problem(f"{error}. Logs are in {folder.logs}.")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    return 1


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end the session after the script")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write figures there, as JSON")
    parser.add_argument(
        "--real",
        action="store_true",
        help="use the real LiveAvatar, in sandbox mode; needs LIVEAVATAR_API_KEY",
    )
    parsed = parser.parse_args(arguments)
    return Options(once=parsed.once, real=parsed.real, report=parsed.report)


def _check(options: Options, settings: LocalSettings) -> None:
    """Refuse what cannot work before anything is started."""
    if options.real and settings.liveavatar_api_key is None:
        raise ServerUnavailable(
            "LIVEAVATAR_API_KEY is not set: export it, or leave out --real to use the simulator."
        )
    if settings.audio is not None and not settings.audio.is_file():
        raise LocalError(f"AUDIO={settings.audio}: there is no such file.")
    if options.report is not None:
        if not options.report.absolute().parent.is_dir():
            raise LocalError(f"the folder of --report {options.report} does not exist.")
        options.report.unlink(missing_ok=True)  # an earlier run's report would mislead


class Demo:
    """One run of the demo."""

    def __init__(
        self,
        options: Options,
        settings: LocalSettings,
        screen: Screen,
        sources: tuple[TemporalSource, LiveKitSource],
        folder: DemoFolder,
    ) -> None:
        self._folder = folder
        self._options = options
        self._settings = settings
        self._screen = screen
        self._sources = sources
        self._supervisor = Supervisor(folder.logs, on_wait=screen.waiting, on_loss=self._show_loss)
        self._stop = Stop(self._supervisor)

    async def run(self) -> int:
        """Run the whole demo; returns the exit status."""
        clips = self._lay_out_clips()
        # Libraries' warnings (LiveKit's native part logs a lot) go to a file, not to the screen.
        logging.basicConfig(filename=self._folder.logs / "demo.log", level=logging.WARNING)
        real = self._options.real
        with self._stop.listening():
            async with self._supervisor:
                stack = await start_stack(
                    self._supervisor,
                    self._sources,
                    self._settings,
                    simulator=None if real else self._simulator_settings,
                    clip_folder=self._folder.clips,
                    on_started=self._screen.up,
                    worker_variables={
                        name: value
                        for name, value in os.environ.items()
                        if name.startswith(WORKER_VARIABLES)
                    },
                )
                sessions = AvatarSessions(await stack.temporal.client(), _seal_of(stack))
                began_at = time.monotonic()
                voice = Espeak.find()
                async with ViewerServer(
                    SessionViewerSource(sessions),
                    speaker=None if voice is None else TypedSpeech(sessions, voice),
                    port=self._settings.viewer_port,
                    livekit_url=None if real else stack.livekit.url,
                ) as viewer:
                    self._screen.up("Viewer", viewer.url, time.monotonic() - began_at)
                    conversation = Conversation(sessions, stack, viewer, self._screen, clips)
                    self._write_environment(stack)
                    return await self._supervisor.guard(self._converse(conversation, stack))

    def _simulator_settings(self, livekit: LiveKitServer) -> SimulatorSettings:
        """The user's `SIMULATOR_` variables, with the ports and the LiveKit of the stack."""
        return SimulatorSettings(
            port=self._settings.simulator_port,
            media_port=self._settings.simulator_media_port,
            livekit_url=livekit.url,
            livekit_api_key=livekit.api_key,
            livekit_api_secret=SecretStr(livekit.api_secret),
            api_keys=(SecretStr(f"simulator-{secrets.token_urlsafe(16)}"),),
        )

    def _lay_out_clips(self) -> tuple[Clip, Clip]:
        """The clip that is played to its end, and the one that is interrupted."""
        hello, story = SAMPLES / "hello.flac", SAMPLES / "story.flac"
        if self._settings.audio is not None:
            hello = self._settings.audio
        self._folder.add_clips((hello, story))
        return Clip(file=hello.name), Clip(file=story.name)

    def _write_environment(self, stack: LocalStack) -> None:
        """Write the variables that a command in another terminal needs."""
        exports = {
            **stack.temporal.environment,
            "AVATAR_SESSIONS_SEAL_KEYS": stack.seal_keys.get_secret_value(),
        }
        self._folder.write_environment(
            exports,
            unset=("TEMPORAL_API_KEY", "TEMPORAL_PROFILE", "TEMPORAL_TLS")
            if stack.temporal.started_here
            else (),
            path=ROOT / ".venv" / "bin",
        )

    async def _converse(self, conversation: Conversation, stack: LocalStack) -> int:
        """Start, perform, stay open, end; whatever fails, end the session that was started."""
        problem: AvatarSessionsError | LocalError | None = None
        complete = False
        try:
            with self._stop.in_order():
                try:
                    await conversation.start()
                    complete = await self._stop.unless_requested(conversation.perform())
                    if complete and not self._options.once:
                        await self._stop.unless_requested(self._stay_open(conversation, stack))
                except (AvatarSessionsError, LocalError) as error:
                    problem = error
                if not conversation.started and problem is not None:
                    raise problem
                ending = await _end(conversation, stack, complete=complete)
        except BaseException:
            # A part of the stack has died, or Ctrl-C was pressed twice: no workflow can end the
            # session.
            await conversation.stop_billing()
            raise
        finally:
            await conversation.leave()
        return self._show_report(conversation, ending, stack, problem)

    async def _stay_open(self, conversation: Conversation, stack: LocalStack) -> None:
        """Leave the session to the user until it is over."""
        await self._invite_agent(conversation, stack)
        self._screen.try_this(_commands(conversation.key, self._folder.env))
        await conversation.wait_until_over()

    async def _invite_agent(self, conversation: Conversation, stack: LocalStack) -> None:
        """Start the echo agent, so that the user can talk to the avatar.

        Not before the script is over: speech into the microphone would interrupt it. Not with
        `--once`: no user is there to speak.
        """
        await conversation.leave()  # in a room that LiveAvatar hosts, agents share one identity
        try:
            await echo_agent(self._supervisor, stack, conversation.key)
        except LocalError as error:
            self._screen.error(error)
        else:
            self._screen.step(
                "echo agent", "press Talk on the page: the avatar repeats what it hears"
            )

    def _show_loss(self, death: ProcessDied) -> None:
        what_now = "The session goes on; `python examples/echo_agent.py` starts another agent."
        self._screen.problem(f"{death.sentence}. {what_now}", death.detail)

    def _show_report(
        self,
        conversation: Conversation,
        ending: Ending,
        stack: LocalStack,
        problem: AvatarSessionsError | LocalError | None,
    ) -> int:
        if self._options.report is not None:
            figures = _figures(conversation, ending)
            text = figures.model_dump_json(indent=2) + "\n"
            self._options.report.write_text(text, encoding="utf-8")
        source = "by the simulator" if stack.liveavatar.simulated else "by the session's report"
        self._screen.report(ending.report, ending.provider, source)
        if problem is not None and ending.report.failure is None:
            self._screen.problem(str(problem))
            return 1
        self._screen.outcome(ending.report, as_requested=ending.as_requested)
        if not ending.as_requested:
            return 1
        return 0 if ending.complete else INTERRUPTED


async def _end(conversation: Conversation, stack: LocalStack, *, complete: bool) -> Ending:
    """End the session, and compare with the provider's own count."""
    report = await conversation.end()
    if not stack.liveavatar.simulated:
        begun = [g for g in report.generations if g.started_at is not None]
        stopped = sum(g.stop in {"stopped", "already_gone"} for g in begun)
        counts = {"started": len(begun), "stopped": stopped, "open": len(begun) - stopped}
        return Ending(report, counts, complete)
    try:
        return Ending(report, counts_of(await stack.liveavatar.ledger()), complete)
    except httpx.HTTPError as error:
        raise LocalError(f"the simulator's ledger could not be read ({error}).") from error


def _figures(conversation: Conversation, ending: Ending) -> DemoReport:
    report, measured = ending.report, conversation.measured
    return DemoReport(
        session_key=report.session_key,
        workflow_id=report.workflow_id,
        state=report.state,
        end_reason=report.end_reason,
        start_ms=report.start_ms,
        first_audio_ms=measured.first_audio_ms,
        interrupt_ms=measured.interrupt_ms,
        utterances=[
            UtteranceFigures(
                id=utterance.id,
                outcome=utterance.outcome,
                sent_ms=utterance.sent_ms,
                heard_ms=utterance.heard_ms,
            )
            for utterance in report.utterances
        ],
        provider=ending.provider,
        viewer={
            "video_frames": conversation.received.video_frames,
            "audio_ms": int(conversation.received.audio_ms),
        },
        urls={"temporal_ui": measured.temporal_url, "viewer": measured.viewer_url},
    )


# ---------------------------------------------------------------- how it ends


class Stop:
    """Ctrl-C, SIGTERM, a closed terminal: the first ends the demo in order, a second at once."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._requested = asyncio.Event()
        self._ends_in_order = False
        self._task: asyncio.Task[Any] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals for the current task."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        for sign in STOP_SIGNALS:
            loop.add_signal_handler(sign, self._on_signal)
        try:
            yield
        finally:
            for sign in STOP_SIGNALS:
                loop.remove_signal_handler(sign)

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        """Inside, the first signal is only noted, for `unless_requested`."""
        self._ends_in_order = True
        try:
            yield
        finally:
            self._ends_in_order = False

    async def unless_requested(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work unless a stop is requested first; returns whether the work was done."""
        doing = asyncio.create_task(work, name="script")
        requested = asyncio.create_task(self._requested.wait(), name="wait for Ctrl-C")
        try:
            await asyncio.wait({doing, requested}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            await doing
            return True
        finally:
            doing.cancel()
            requested.cancel()
            await asyncio.wait({doing, requested})

    def _on_signal(self) -> None:
        assert self._task is not None
        if self._requested.is_set():
            self._supervisor.kill_at_once()
        if self._requested.is_set() or not self._ends_in_order:
            self._task.cancel()
        self._requested.set()


def _seal_of(stack: LocalStack) -> Seal:
    keys = stack.seal_keys.get_secret_value().split(",")
    return Seal([SecretStr(key.strip()) for key in keys if key.strip()])


def _commands(key: str, environment: Path) -> list[str]:
    return [
        f". {os.path.relpath(environment)}",
        f"avatar-sessions status {key}",
        f"avatar-sessions speak {key} --file story.flac",
        f"avatar-sessions interrupt {key}",
        f"avatar-sessions pose {key} listening",
        f"avatar-sessions end {key}",
        "avatar-sessions list",
    ]
