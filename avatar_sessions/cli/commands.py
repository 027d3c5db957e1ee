"""The verbs of the command line: each calls the client and shows the answer.

Errors become a sentence and an exit code here, and nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final

from avatar_sessions.access import Access
from avatar_sessions.cli import output as text
from avatar_sessions.cli.janitor import finding_text
from avatar_sessions.cli.output import CliOutput
from avatar_sessions.client import AvatarSessions
from avatar_sessions.contract.janitor import JanitorRound
from avatar_sessions.contract.messages import Clip, OwnRoom, SessionRequest, Speak
from avatar_sessions.contract.reports import CommandResult, SessionReport
from avatar_sessions.contract.states import FINAL, SessionState, UtteranceOutcome
from avatar_sessions.errors import (
    AvatarSessionsError,
    InvalidArgument,
    NoAnswer,
    SessionFailed,
    SessionNotFound,
    SessionOver,
)
from avatar_sessions.janitor import JanitorFailed, run_round
from avatar_sessions.seal import Seal
from avatar_sessions.session import SPEAK_TIMEOUT_S
from avatar_sessions.settings import read_settings, unknown_variables


class ExitCode(IntEnum):
    """The result of a command, for scripts."""

    DONE = 0
    FAILED = 1
    """The session failed, the utterance was not played to its end, or the janitor failed."""
    USAGE = 2
    NOT_THERE = 3
    """There is no such session, or it is over."""
    NO_ANSWER = 4
    """Temporal or its workers cannot be reached, or did not answer in time."""
    REFUSED = 5
    """The session refused the command, it expired, or access could not be opened."""


_EXIT_CODES: Final[tuple[tuple[type[AvatarSessionsError], ExitCode], ...]] = (
    (SessionFailed, ExitCode.FAILED),
    (JanitorFailed, ExitCode.FAILED),
    (SessionNotFound, ExitCode.NOT_THERE),
    (SessionOver, ExitCode.NOT_THERE),
    (NoAnswer, ExitCode.NO_ANSWER),
    (InvalidArgument, ExitCode.USAGE),
    (AvatarSessionsError, ExitCode.REFUSED),
)

Verb = Callable[[AvatarSessions, argparse.Namespace, CliOutput], Awaitable[ExitCode]]


async def start(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    request = _request(arguments)
    greeting = _clip_at(arguments.say) if arguments.say is not None else None
    access: Access | None = None
    if arguments.attach and greeting is None:
        session, access = await sessions.open(arguments.key, request)
    else:
        first = None if greeting is None else Speak(clip=greeting)
        session = await sessions.start(arguments.key, request, first=first)
        if arguments.attach:
            access = await session.attach()
    if access is None:
        output.show(text.started_text(session), text.started_document(session))
    else:
        output.show(
            text.access_text(access, show_tokens=arguments.show_tokens),
            text.started_document(session) | text.access_document(access),
        )
    return ExitCode.DONE


async def attach(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    access = await sessions.get(arguments.key).attach(arguments.identity)
    output.show(
        text.access_text(access, show_tokens=arguments.show_tokens), text.access_document(access)
    )
    return ExitCode.DONE


async def speak(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    session = sessions.get(arguments.key)
    if arguments.file is not None:
        if arguments.seal:
            raise InvalidArgument("--seal is for --url: the name of a file is not a secret")
        clip = Clip(file=arguments.file)
    elif arguments.seal:
        clip = sessions.sealed_clip(arguments.url)
    else:
        clip = Clip(url=arguments.url)
    options: dict[str, Any] = {"command_id": arguments.command_id, "ttl_s": arguments.ttl_s}
    if arguments.no_wait:
        command_id = await session.speak(clip, wait=False, **options)
        output.show([f"requested: {command_id}"], {"command_id": command_id})
        return ExitCode.DONE
    utterance = await session.speak(clip, timeout_s=SPEAK_TIMEOUT_S, **options)
    output.show(text.utterance_text(utterance), utterance)
    return ExitCode.DONE if utterance.outcome is UtteranceOutcome.COMPLETED else ExitCode.FAILED


async def interrupt(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    return _show_command(await sessions.get(arguments.key).interrupt(), output)


async def pose(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    return _show_command(await sessions.get(arguments.key).set_pose(arguments.pose), output)


async def keep_alive(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    return _show_command(await sessions.get(arguments.key).keep_alive(), output)


async def end(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    session = sessions.get(arguments.key)
    return _show_report(await session.end(finish_speaking=arguments.finish_speaking), output)


async def status(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    answer = await sessions.get(arguments.key).status()
    output.show(text.status_text(answer, datetime.now(UTC)), answer)
    return ExitCode.DONE


async def list_sessions(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    state = None if arguments.state is None else SessionState(arguments.state)
    found = [one async for one in sessions.list(state=state, tenant=arguments.tenant)]
    output.show(
        text.list_text(found, datetime.now(UTC)), [text.listing_document(one) for one in found]
    )
    return ExitCode.DONE


async def watch(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    last: SessionState | None = None
    async for answer in sessions.get(arguments.key).watch(every_s=arguments.every_s):
        output.show(text.change_text(answer, datetime.now(UTC)), answer)
        last = answer.state
    assert last in FINAL
    return ExitCode.FAILED if last is SessionState.FAILED else ExitCode.DONE


async def report(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    return _show_report(await sessions.get(arguments.key).report(), output)


async def janitor(
    sessions: AvatarSessions, arguments: argparse.Namespace, output: CliOutput
) -> ExitCode:
    finding = await run_round(
        sessions.temporal, JanitorRound(dry_run=arguments.dry_run), timeout_s=arguments.wait_s
    )
    output.show(finding_text(finding), finding)
    return ExitCode.DONE if finding.succeeded else ExitCode.FAILED


def new_seal_key(output: CliOutput) -> ExitCode:
    """Make a seal key. The only verb that does not call Temporal."""
    key = Seal.new_key().get_secret_value()
    output.show([key], {"seal_key": key})
    return ExitCode.DONE


VERBS: Final[dict[str, Verb]] = {
    "start": start,
    "attach": attach,
    "speak": speak,
    "interrupt": interrupt,
    "pose": pose,
    "keep-alive": keep_alive,
    "end": end,
    "status": status,
    "list": list_sessions,
    "watch": watch,
    "report": report,
    "janitor": janitor,
}


def run_verb(arguments: argparse.Namespace) -> ExitCode:
    """Run the verb; nothing but KeyboardInterrupt is raised."""
    output = CliOutput(as_json=arguments.json)
    for sentence in unknown_variables(os.environ):
        output.warn(sentence)
    try:
        if arguments.verb == "new-seal-key":
            return new_seal_key(output)
        return asyncio.run(_connected(arguments, output))
    except AvatarSessionsError as error:
        code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
        name = "Usage" if isinstance(error, InvalidArgument) else type(error).__name__
        output.error(name, str(error), code)
        return code
    except ValueError as error:  # words that cannot be sent, such as half of a character
        output.error("Usage", str(error), ExitCode.USAGE)
        return ExitCode.USAGE
    except BrokenPipeError:  # the reader has closed the pipe
        return ExitCode.DONE


async def _connected(arguments: argparse.Namespace, output: CliOutput) -> ExitCode:
    sessions = await AvatarSessions.connect(settings=read_settings())
    return await VERBS[arguments.verb](sessions, arguments, output)


def _show_command(result: CommandResult, output: CliOutput) -> ExitCode:
    output.show(text.command_text(result), result)
    return ExitCode.DONE


def _show_report(report: SessionReport, output: CliOutput) -> ExitCode:
    output.show(text.report_text(report), report)
    return ExitCode.FAILED if report.state is SessionState.FAILED else ExitCode.DONE


def _request(arguments: argparse.Namespace) -> SessionRequest:
    """The request of ``start``; options that are not given keep the contract's defaults."""
    fields: dict[str, object] = {
        "avatar_id": arguments.avatar_id,
        "sandbox": arguments.sandbox,
        "max_duration_s": arguments.max_duration_s,
        "idle_timeout_s": arguments.idle_timeout_s,
        "start_timeout_s": arguments.start_timeout_s,
        "command_ttl_s": arguments.command_ttl_s,
        "tenant": arguments.tenant,
        "video": None if arguments.quality is None else {"quality": arguments.quality},
    }
    if arguments.own_room is not None:
        fields["room"] = OwnRoom(name=arguments.own_room or None)
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    return SessionRequest(**given)


def _clip_at(location: str) -> Clip:
    is_url = location.lower().startswith(("http://", "https://"))
    return Clip(url=location) if is_url else Clip(file=location)
