"""Alerts for an operator: what a cleanup left behind, and the commands to act on it.

Text only: no I/O, no Temporal. Names in commands are quoted for the shell they are copied into.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from avatar_sessions.contract.reports import Failure
from avatar_sessions.contract.states import AlertKind

API: Final = "${LIVEAVATAR_API_URL:-https://api.liveavatar.com}"
"""Expanded by a shell with the workers' environment."""


@dataclass(frozen=True)
class OperatorAlert:
    """An alert on the workflow's page."""

    kind: AlertKind
    text: str
    """Markdown."""


@dataclass(frozen=True)
class LeftBehind:
    """What stays behind if a cleanup fails."""

    name: str
    """The LiveAvatar session's id, or the room's name."""
    kind: AlertKind
    problem: str
    """One sentence without a full stop."""
    commands: tuple[str, ...]
    """For a shell with the workers' environment."""


def session_left(provider_session_id: str, billed_since: datetime | None) -> LeftBehind:
    """A LiveAvatar session whose stop is not confirmed."""
    since = "" if billed_since is None else f" since {billed_since:%Y-%m-%d %H:%M:%S} UTC"
    body = json.dumps({"session_id": provider_session_id})
    return LeftBehind(
        name=provider_session_id,
        kind=AlertKind.PROVIDER_NOT_STOPPED,
        problem=f"LiveAvatar session {provider_session_id} may still be billed{since}",
        commands=(
            f'curl -X POST "{API}/v1/sessions/stop" -H "X-API-KEY: $LIVEAVATAR_API_KEY"'
            f" -H 'Content-Type: application/json' -d {quoted(body)}",
            f'curl "{API}/v1/sessions?type=active" -H "X-API-KEY: $LIVEAVATAR_API_KEY"'
            "   # is it still listed?",
            "avatar-sessions janitor   # stops sessions whose workflow has closed",
        ),
    )


def room_left(room: str, avatar_identity: str, *, delete: bool) -> LeftBehind:
    """A room that may still exist, or still have the avatar in it."""
    if delete:
        problem = f"room {room} may still exist"
        command = f"lk room delete {quoted(room)}"
    else:
        problem = f"{avatar_identity} may still be in room {room}"
        command = f"lk room participants remove --room {quoted(room)} {quoted(avatar_identity)}"
    return LeftBehind(
        name=f"room {room}",
        kind=AlertKind.ROOM_NOT_CLEAN,
        problem=problem,
        commands=(f"{command}   # with LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET set",),
    )


def cleanup_alert(
    left: LeftBehind, failure: Failure, *, since: datetime, next_step: str
) -> OperatorAlert:
    """The alert of a cleanup that keeps failing.

    Args:
        left: what stays behind.
        failure: the last error.
        since: when the first attempt was made.
        next_step: what happens if no operator acts.
    """
    lines = [
        f"### ⚠ ALERT `{left.kind}`",
        f"{left.problem}. Its cleanup has failed since {since:%H:%M:%S} UTC.",
        f"Last error: {failure.message} (`{failure.type}`)",
        f"Next: {next_step}.",
        "What you can do:",
        "\n".join(("```sh", *left.commands, "```")),
    ]
    return OperatorAlert(left.kind, "\n\n".join(lines))


def quoted(text: str) -> str:
    """A word for a POSIX shell; invisible characters are escaped (``$'…'``: bash, zsh)."""
    if text.isprintable() and "`" not in text:
        return shlex.quote(text)
    escaped = text.encode("unicode_escape").decode().replace("'", "\\'").replace("`", "\\x60")
    return f"$'{escaped}'"
