"""What an operator must look at, and everything needed to act: shown on the workflow's page.

Words only: no I/O, no Temporal. Names in commands are quoted for the shell they are copied into.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from avatar_sessions.contract.messages import Failure
from avatar_sessions.contract.states import AlertKind as Word

API: Final = "${LIVEAVATAR_API_URL:-https://api.liveavatar.com}"
"""As a shell with the workers' environment reads it."""


@dataclass(frozen=True)
class OperatorAlert:
    """One thing that is left behind."""

    word: Word
    text: str
    """Markdown."""


@dataclass(frozen=True)
class LeftBehind:
    """What a cleanup is about, for the case that it fails."""

    name: str
    """A LiveAvatar session's id, or a room's name."""
    word: Word
    problem: str
    """One sentence without a full stop."""
    commands: tuple[str, ...]
    """For a shell with the workers' environment."""


def session_left(provider_session_id: str, billed_since: datetime | None) -> LeftBehind:
    """A LiveAvatar session that is not confirmed to be stopped."""
    since = "" if billed_since is None else f" since {billed_since:%Y-%m-%d %H:%M:%S} UTC"
    body = json.dumps({"session_id": provider_session_id})
    return LeftBehind(
        name=provider_session_id,
        word=Word.PROVIDER_NOT_STOPPED,
        problem=f"LiveAvatar session {provider_session_id} may still be billed{since}",
        commands=(
            f'curl -X POST "{API}/v1/sessions/stop" -H "X-API-KEY: $LIVEAVATAR_API_KEY"'
            f" -H 'Content-Type: application/json' -d {quoted(body)}",
            f'curl "{API}/v1/sessions?type=active" -H "X-API-KEY: $LIVEAVATAR_API_KEY"'
            "   # is it there?",
            "avatar-sessions janitor   # stops what no running session owns",
        ),
    )


def room_left(room: str, avatar_identity: str, *, delete: bool) -> LeftBehind:
    """A room of our own that may still exist, or still hold the avatar."""
    if delete:
        problem = f"room {room} may still exist"
        command = f"lk room delete {quoted(room)}"
    else:
        problem = f"{avatar_identity} may still be in room {room}"
        command = f"lk room participants remove --room {quoted(room)} {quoted(avatar_identity)}"
    return LeftBehind(
        name=f"room {room}",
        word=Word.ROOM_NOT_CLEAN,
        problem=problem,
        commands=(f"{command}   # with LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET set",),
    )


def alert(left: LeftBehind, failure: Failure, *, since: datetime, then: str) -> OperatorAlert:
    """The block for the page.

    Args:
        since: when the cleanup was first tried.
        then: what happens next, if nobody acts.
    """
    lines = [
        f"### ⚠ ALERT `{left.word}`",
        f"{left.problem}. Its cleanup has failed since {since:%H:%M:%S} UTC.",
        f"Last error: {failure.message} (`{failure.type}`)",
        f"Next: {then}.",
        "What you can do:",
        "\n".join(("```sh", *left.commands, "```")),
    ]
    return OperatorAlert(left.word, "\n\n".join(lines))


def quoted(text: str) -> str:
    """A word for a POSIX shell; what cannot be seen is spelt out (bash, zsh)."""
    if text.isprintable() and "`" not in text:
        return shlex.quote(text)
    spelt = text.encode("unicode_escape").decode().replace("'", "\\'").replace("`", "\\x60")
    return f"$'{spelt}'"
