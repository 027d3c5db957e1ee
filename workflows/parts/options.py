"""Timeouts and retries of every activity of the session workflow, each under one name.

An activity without a task queue here runs on the workflow's own. The times are tuned for people who
wait at the other end. Figures called "measured" were taken on a real server; see
docs/internals/design.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

from avatar_sessions.contract import names

# -------------------------------------------------------------- starting a generation

CALL_HEARTBEAT: Final = timedelta(seconds=4)
"""Calls to LiveAvatar and LiveKit send a heartbeat each second, so the server notices a dead worker
after this time instead of the call's whole timeout."""

SHORT_CALL: Final = ActivityConfig(
    heartbeat_timeout=CALL_HEARTBEAT,
    start_to_close_timeout=timedelta(seconds=12),
    schedule_to_close_timeout=timedelta(seconds=25),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=300),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=3),
        maximum_attempts=4,
    ),
)
"""One request to LiveAvatar or LiveKit that bills nothing. A service that is down is an answer
within about three seconds."""

CREATE_ROOM: Final = ActivityConfig(
    **SHORT_CALL,
    # Wait for a cancelled activity: the room must not appear after its cleanup.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

START_CALL: Final = ActivityConfig(
    heartbeat_timeout=CALL_HEARTBEAT,
    start_to_close_timeout=timedelta(seconds=40),
    schedule_to_close_timeout=timedelta(seconds=60),
    # No retry by the server: a dead worker may have begun billing, so the workflow decides.
    retry_policy=RetryPolicy(maximum_attempts=1),
    # Wait for a cancelled activity: its reply says whether there is a session to stop.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
"""``/start``: longer than the call's own limit of 20 s plus ``LIMIT_WAIT``. The workflow retries,
and only while it is certain that nothing was billed (a limit, no connection)."""
START_TRIES: Final = 4
START_PAUSE: Final = timedelta(milliseconds=500)
"""Before the second attempt when LiveAvatar cannot be reached; doubled each time."""

LIMIT_WAIT: Final = timedelta(seconds=10)
"""How long one start activity waits for a free LiveAvatar session, or for the rate limit, before it
fails. A wait of a minute then costs some forty events. The first attempt does not wait, so that
the workflow shows the wait immediately."""
MINT_PAUSE: Final = timedelta(seconds=1)
MINT_PAUSE_MAX: Final = timedelta(seconds=8)
"""Before a token is requested again, unless LiveAvatar asks for a longer pause; doubled each
time."""

LOST_START_PAUSES: Final = (timedelta(seconds=10), timedelta(seconds=30))
"""Pauses before a session whose start had no known outcome is stopped again, until LiveAvatar's
billing shows its end: a delayed start request may arrive after its stop."""

MAX_START_GENERATIONS: Final = 3
"""How many LiveAvatar sessions one start may open when replies to ``/start`` are lost."""

# --------------------------------------------------------------------------- streams

STREAM_HEARTBEAT_S: Final = 13.0
"""More than the eight seconds after which an owner considers itself unsupervised."""
STREAM: Final = ActivityConfig(
    task_queue=names.STREAMS_TASK_QUEUE,
    heartbeat_timeout=timedelta(seconds=STREAM_HEARTBEAT_S),
    # Also applies to the retry after a crash: as long as LiveAvatar may keep the session.
    schedule_to_start_timeout=timedelta(seconds=120),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        backoff_coefficient=1.5,
        maximum_interval=timedelta(seconds=5),
    ),
    # A takeover does not wait for a dead owner; a normal end is a command, not a cancellation.
    cancellation_type=ActivityCancellationType.TRY_CANCEL,
)
STREAM_MARGIN: Final = timedelta(minutes=10)
"""By how much an attempt of the stream may exceed the session's own limit."""

# --------------------------------------------------------------- commands to the owner

DELIVER: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(seconds=2),
    start_to_close_timeout=timedelta(seconds=3),
    retry_policy=RetryPolicy(maximum_attempts=1),
)
"""A command on the owner's private queue. Without an owner it fails after two seconds."""

PROBE: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(milliseconds=500),
    start_to_close_timeout=timedelta(seconds=1),
    retry_policy=RetryPolicy(maximum_attempts=1),
)
"""A probe of the owner. An owner that does not take the probe within half a second, or takes it and
does not answer within a second (a stopped process), is replaced: a takeover costs less than a
silence, and a false one loses nothing."""

FRESH_TICKET: Final = timedelta(seconds=60)
"""A speaker's ticket that is valid for this long is handed on; otherwise the owner issues a new
one."""

IDLE_QUERY_PAUSE: Final = timedelta(seconds=3)
"""Before the owner's idle time is queried again, where the owner did not answer."""

UTTERANCE: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(seconds=2),
    # A clip of ten minutes, its fetch, and pauses of the provider.
    start_to_close_timeout=timedelta(minutes=15),
    # The owner sends a heartbeat each second; listeners to a dead owner notice sooner.
    heartbeat_timeout=timedelta(seconds=3),
    retry_policy=RetryPolicy(maximum_attempts=1),
    cancellation_type=ActivityCancellationType.TRY_CANCEL,
)
"""An utterance on the owner's private queue: lasts as long as the avatar speaks. The server never
retries it; the workflow continues it at the next owner, from its last heartbeat."""

PROBE_PAUSE: Final = timedelta(seconds=1)
PROBE_PAUSE_MAX: Final = timedelta(seconds=5)
"""Between two probes of an owner that is unreachable; doubled each time."""

SUCCESSOR_TIMEOUT: Final = timedelta(seconds=3)
"""How long a successor may take to be ready before another one is called; doubled each time."""
SUCCESSOR_TIMEOUT_IF_STOPPED: Final = timedelta(seconds=1)
"""The same where the replaced owner took the probe and did not answer."""

RECOVERY_TIMEOUT: Final = timedelta(seconds=180)
"""How long a session may be without an owner: LiveAvatar ends an abandoned one after about
200 s (two measurements by a third party, 194 and 210 s)."""

# ------------------------------------------------------------------------ generations

ROTATE_AHEAD: Final = timedelta(seconds=30)
"""How long before LiveAvatar's limit the next generation is opened, or a third of the limit. Both
generations are billed meanwhile, and the current utterance has this long to end."""
ROTATE_RETRY_PAUSE: Final = timedelta(seconds=5)
"""After a rotation that failed."""
HAND_OVER_MARGIN: Final = timedelta(seconds=3)
"""Before LiveAvatar's limit the next generation takes over in any case."""
FOLLOW_PAUSE: Final = timedelta(seconds=1.5)
"""How long the old hosted room stays after the next generation took over: viewers change rooms."""
RETIRE_MARGIN: Final = timedelta(seconds=2)
MIN_GENERATION_TIME: Final = timedelta(seconds=5)
"""With less time left, no further LiveAvatar session is opened."""
SHORT_GENERATION: Final = timedelta(seconds=30)
MAX_SHORT_GENERATIONS: Final = 3
"""How many LiveAvatar sessions in a row may end soon after their start; one more ends the
session."""
STOP_TIMEOUT: Final = timedelta(seconds=3)
"""How long the next generation waits for the stop of a lost one."""
RECOVERY_PAUSE_MAX: Final = timedelta(seconds=10)
"""Between two attempts to open the next generation; doubled each time."""

DEFAULT_MAX_DURATION: Final = timedelta(hours=1)
"""Where neither the request nor LiveAvatar names a limit."""

# ----------------------------------------------------------------------------- ending

CLEANUP: Final = ActivityConfig(
    heartbeat_timeout=CALL_HEARTBEAT,
    start_to_close_timeout=timedelta(seconds=15),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=15),
    ),
)
"""Cleanup that must eventually succeed. The server retries, which adds no events, in stretches;
after each the workflow shows the last error. Each stretch ends by its schedule-to-close timeout."""
CLEANUP_ALERT_AFTER: Final = timedelta(seconds=20)
"""The first stretch: a cleanup that fails for longer raises an alert."""
CLEANUP_STRETCH: Final = timedelta(minutes=5)
"""The longest stretch: the maximum age of the error that an alert shows."""
CLEANUP_PAUSE_MAX: Final = timedelta(minutes=5)
"""Upper bound of a ``Retry-After``, because the session may be billed meanwhile."""
CLEANUP_TIMEOUT: Final = timedelta(minutes=30)
"""Outlasts an outage of half an hour; then the report shows what is left behind."""

RELEASE_TIMEOUT: Final = timedelta(seconds=5)
"""How long the owner may take to release the session after the stop, before it is cancelled."""

TASKS_TIMEOUT: Final = timedelta(seconds=10)
"""How long the workflow's own tasks may take to stop."""

# --------------------------------------------------------------------- Temporal's limits

MAX_AWAITED_SPEAKS: Final = 6
"""The server accepts ten updates in flight for a workflow; the rest is kept for interrupts."""

HISTORY_ROOM: Final = 0.8
"""Share of the server's own limits beyond which commands are refused."""
HISTORY_END: Final = 0.95
"""Share beyond which the session ends: at the limit the server ends it without its cleanup."""
MAX_HISTORY_EVENTS: Final = 51_200
MAX_HISTORY_BYTES: Final = 50 * 1024 * 1024
MAX_SIGNALS: Final = 10_000
"""Temporal's defaults (``limit.historyCount.error``, ``limit.historySize.error``,
``history.maximumSignalsPerExecution``)."""
