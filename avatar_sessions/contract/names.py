"""Names that cross processes: workflow type, ids, task queues, messages, activities.

Nothing else in the project formats an id or spells a message's name. No I/O.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from avatar_sessions.contract.errors import InvalidSessionKey

WAYNE_AVATAR_ID: Final = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
"""The one avatar that LiveAvatar's free sandbox takes. The same as ``liveavatar_lite``'s, which is
not imported here: it costs what sending speech needs."""

WORKFLOW_TYPE: Final = "AvatarSession"
WORKFLOW_ID_PREFIX: Final = "avatar-session:"

SESSIONS_TASK_QUEUE: Final = "avatar-sessions"
"""Workflows and the short provisioning activities (``AVATAR_SESSIONS_TASK_QUEUE``)."""
JANITOR_TASK_QUEUE: Final = "avatar-janitor"
"""The janitor's own: many sessions on the other queues must not delay its rounds."""
JANITOR_WORKFLOW_TYPE: Final = "AvatarJanitor"
JANITOR_SCHEDULE_ID: Final = "avatar-janitor"
JANITOR_WORKFLOW_ID: Final = "avatar-janitor"
"""The workflow id of a scheduled round: Temporal appends the time at which it was due."""
JANITOR_BY_HAND_PREFIX: Final = "avatar-janitor-by-hand:"
STREAMS_TASK_QUEUE: Final = "avatar-streams"
"""The ``stream_audio`` activities, which last for hours: each slot is one session."""
OWNER_TASK_QUEUE_PREFIX: Final = "avatar-owner:"
"""The private queue of one process that owns sessions: commands and utterances."""

# Signals.
SIGNAL_SPEAK: Final = "speak"
SIGNAL_INTERRUPT: Final = "interrupt"
SIGNAL_SET_POSE: Final = "set_pose"
SIGNAL_KEEP_ALIVE: Final = "keep_alive"
SIGNAL_END: Final = "end"
SIGNAL_OWNER_READY: Final = "owner_ready"
SIGNAL_OWNER_RECOVERING: Final = "owner_recovering"
SIGNAL_OWNER_LOST: Final = "owner_lost"
SIGNAL_UTTERANCES: Final = "utterances"

# Updates and queries.
UPDATE_ATTACH: Final = "attach"
UPDATE_PERFORM: Final = "perform"
QUERY_STATUS: Final = "status"

# Activities.
ACTIVITY_CREATE_ROOM: Final = "create_room"
ACTIVITY_MINT_TOKEN: Final = "mint_token"  # noqa: S105 - the name of an activity
ACTIVITY_START_SESSION: Final = "start_session"
ACTIVITY_STREAM_AUDIO: Final = "stream_audio"
ACTIVITY_DELIVER_COMMAND: Final = "deliver_command"
ACTIVITY_SPEAK: Final = "speak"
ACTIVITY_GRANT_ACCESS: Final = "grant_access"
ACTIVITY_GRANT_SPEAKER: Final = "grant_speaker"
ACTIVITY_STOP_SESSION: Final = "stop_session"
ACTIVITY_CLEAN_ROOM: Final = "clean_room"
ACTIVITY_REAP: Final = "reap"

# Search attributes.
SEARCH_ATTRIBUTE_STATE: Final = "AvatarState"
SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID: Final = "AvatarProviderSessionId"
"""The latest LiveAvatar session."""
SEARCH_ATTRIBUTE_PROVIDER_SESSIONS: Final = "AvatarProviderSessions"
"""All LiveAvatar sessions of a session: the janitor finds the workflow of one by it."""
SEARCH_ATTRIBUTE_TENANT: Final = "AvatarTenant"
SEARCH_ATTRIBUTE_ALERT: Final = "AvatarAlert"
"""What an operator must look at: set while a cleanup fails, kept if it failed for good."""
SEARCH_ATTRIBUTES: Final[dict[str, Literal["Keyword", "KeywordList"]]] = {
    SEARCH_ATTRIBUTE_STATE: "Keyword",
    SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID: "Keyword",
    SEARCH_ATTRIBUTE_PROVIDER_SESSIONS: "KeywordList",
    SEARCH_ATTRIBUTE_TENANT: "Keyword",
    SEARCH_ATTRIBUTE_ALERT: "Keyword",
}
"""Every search attribute with its type, as Temporal's command line names it."""

WORKFLOW_TASK_TIMEOUT_S: Final = 2.0
"""How long a workflow task is lost that was handed to a process which had just died.

Measured: 10.03 s with the server's default of 10 s, 2.03 s with 2 s.
"""

_SESSION_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,199}")


def checked_session_key(key: str) -> str:
    """Return ``key`` if it can name a session.

    Raises:
        InvalidSessionKey: it is empty, longer than 200 characters, or has characters that URLs
            and search queries would have to escape.
    """
    if not _SESSION_KEY.fullmatch(key):
        raise InvalidSessionKey(
            f"session key {key[:60]!r} is not usable: 1 to 200 characters of letters, digits and"
            " . _ : @ / + = -, the first one a letter or digit"
        )
    return key


def workflow_id(session_key: str) -> str:
    """The id of the workflow that is the session ``session_key``."""
    return WORKFLOW_ID_PREFIX + checked_session_key(session_key)


def session_key_of(workflow_id: str) -> str:
    """The session key in a workflow id; an id of another shape is its own key."""
    return workflow_id.removeprefix(WORKFLOW_ID_PREFIX)


def owner_task_queue(owner_id: str) -> str:
    """The private task queue of the owner process ``owner_id`` (unique per process start)."""
    return OWNER_TASK_QUEUE_PREFIX + owner_id


def default_room_name(session_key: str, run_id: str) -> str:
    """The default name of a room on the workers' LiveKit server: readable, unique to one run."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", session_key)[:60]
    return f"avatar-{readable}-{run_id[:8]}"
