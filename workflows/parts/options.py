"""Timeouts and retries of every activity the session workflow uses, each under one name.

Activities without a task queue here run on the workflow's own. Times are tuned to people waiting
on the other end. Figures named "measured" were taken on a
real server; see docs/internals/design.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

from avatar_sessions.contract import names

CALL_HEARTBEAT: Final = timedelta(seconds=4)
"""Calls to LiveAvatar and LiveKit beat each second while they last: a worker that dies under one
is noticed after this long, and not when the call's own time is over."""

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
"""One request to LiveAvatar or LiveKit that bills nothing: a service that is down is an
answer within about three seconds."""

CREATE_ROOM: Final = ActivityConfig(
    **SHORT_CALL,
    # A cancelled one is waited for: a room must not appear after it was cleaned up.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

START_CALL: Final = ActivityConfig(
    heartbeat_timeout=CALL_HEARTBEAT,
    start_to_close_timeout=timedelta(seconds=40),
    schedule_to_close_timeout=timedelta(seconds=60),
    # The server must not repeat what a dead worker may have begun: the workflow decides.
    retry_policy=RetryPolicy(maximum_attempts=1),
    # A cancelled start is waited for: its reply tells whether there is something to stop.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
"""``/start``: outlives the call's own limit of 20 s and ``LIMIT_WAIT``. Repeated by the
workflow, and only while it is certain that nothing was billed (429, no connection, no slot)."""
START_TRIES: Final = 4
START_PAUSE: Final = timedelta(milliseconds=500)
"""Before the second try, when LiveAvatar cannot be reached; doubled each time."""

LIMIT_WAIT: Final = timedelta(seconds=10)
"""How long one activity waits for a free LiveAvatar session, or for the rate limit, before it
tells the workflow. A wait of a minute costs some forty events so, and is noticed at once: the
first try has no patience."""
MINT_PAUSE: Final = timedelta(seconds=1)
MINT_PAUSE_MAX: Final = timedelta(seconds=8)
"""Before a token is asked for again, where LiveAvatar names no longer time; doubled each time."""

LOST_START_PAUSES: Final = (timedelta(seconds=10), timedelta(seconds=30))
"""When a session whose start had no known outcome is stopped again, while LiveAvatar's books do
not say that it has ended: a start that was held up somewhere may land after its stop."""

STREAM_HEARTBEAT_S: Final = 13.0
"""More than the eight seconds after which an owner calls itself unsupervised."""
STREAM: Final = ActivityConfig(
    task_queue=names.STREAMS_TASK_QUEUE,
    heartbeat_timeout=timedelta(seconds=STREAM_HEARTBEAT_S),
    # Also applies to the retry after a crash: as long as LiveAvatar may still keep the session.
    schedule_to_start_timeout=timedelta(seconds=120),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        backoff_coefficient=1.5,
        maximum_interval=timedelta(seconds=5),
    ),
    # A takeover never waits for the dead; a normal end is a command, not a cancel.
    cancellation_type=ActivityCancellationType.TRY_CANCEL,
)
STREAM_MARGIN: Final = timedelta(minutes=10)
"""What an attempt of the stream may outlive the session's own limit."""

DELIVER: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(seconds=2),
    start_to_close_timeout=timedelta(seconds=3),
    retry_policy=RetryPolicy(maximum_attempts=1),
)
"""On the owner's private queue: when the owner is gone, the workflow hears of it at once."""

PROBE: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(milliseconds=500),
    start_to_close_timeout=timedelta(seconds=1),
    retry_policy=RetryPolicy(maximum_attempts=1),
)
"""Is the owner there? One that does not take the question within half a second, or took it and does
not answer within a second (it is stopped), is replaced: a takeover costs less than a silence, and a
false one loses nothing."""

FRESH_TICKET: Final = timedelta(seconds=60)
"""A speaker's ticket that is good for so long is handed on; else the owner is asked for another."""

IDLE_QUERY_PAUSE: Final = timedelta(seconds=3)
"""Before an owner that could not tell whether anybody speaks is asked again."""

UTTERANCE: Final = ActivityConfig(
    schedule_to_start_timeout=timedelta(seconds=2),
    # A clip of ten minutes, its fetch, and pauses of the provider.
    start_to_close_timeout=timedelta(minutes=15),
    # It beats each second: whoever listens to a dead owner hears the silence first.
    heartbeat_timeout=timedelta(seconds=3),
    retry_policy=RetryPolicy(maximum_attempts=1),
    cancellation_type=ActivityCancellationType.TRY_CANCEL,
)
"""On the owner's private queue: lasts as long as the avatar speaks. Never repeated by the server;
the workflow goes on with it at the next owner, from where the last heartbeat says."""

CLEANUP: Final = ActivityConfig(
    heartbeat_timeout=CALL_HEARTBEAT,
    start_to_close_timeout=timedelta(seconds=15),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=15),
    ),
)
"""What must happen. Repeated by the server, which costs no events, in stretches: after each the
workflow shows what stands in the way. Each stretch is given its length as schedule-to-close."""
CLEANUP_ALERT_AFTER: Final = timedelta(seconds=20)
"""The first stretch: what fails for longer is an alert."""
CLEANUP_STRETCH: Final = timedelta(minutes=5)
"""The longest: how old the error may be that the alert shows."""
CLEANUP_PAUSE_MAX: Final = timedelta(minutes=5)
"""What is believed of a ``Retry-After``: meanwhile it bills."""
CLEANUP_TIMEOUT: Final = timedelta(minutes=30)
"""Outlives an outage of half an hour, then the report shows what is left."""

MAX_GENERATIONS: Final = 3
"""How many LiveAvatar sessions one start may open when replies to ``/start`` are lost."""

PROBE_PAUSE: Final = timedelta(seconds=1)
PROBE_PAUSE_MAX: Final = timedelta(seconds=5)
"""Between two tries to reach an owner that did not answer; doubled each time."""

SUCCESSOR_TIMEOUT: Final = timedelta(seconds=3)
"""How long an owner's successor may take to be ready before yet another is called; doubled each
time."""
SUCCESSOR_TIMEOUT_IF_STOPPED: Final = timedelta(seconds=1)
ROTATE_AHEAD: Final = timedelta(seconds=30)
"""How long before LiveAvatar's limit the next generation is opened, or a third of the limit: two
are billed meanwhile, and the one that speaks has so long to come to an utterance's end."""
ROTATE_RETRY_PAUSE: Final = timedelta(seconds=5)
"""After a next generation that could not be had."""
HAND_OVER_MARGIN: Final = timedelta(seconds=3)
"""Before LiveAvatar's limit the other one takes over in any case."""
FOLLOW_PAUSE: Final = timedelta(seconds=1.5)
"""How long the old room of a hosted session stays after the next one speaks."""
RETIRE_MARGIN: Final = timedelta(seconds=2)
MIN_GENERATION_TIME: Final = timedelta(seconds=5)
"""With less time left, no other LiveAvatar session is opened."""
SHORT_GENERATION: Final = timedelta(seconds=30)
MAX_SHORT_GENERATIONS: Final = 3
"""So many LiveAvatar sessions in a row may end soon after their start; one more ends ours."""
STOP_TIMEOUT: Final = timedelta(seconds=3)
"""How long the next generation waits for the stop of one that is lost."""
RECOVERY_PAUSE_MAX: Final = timedelta(seconds=10)
"""Between two tries to open the next generation; doubled each time."""

RECOVERY_TIMEOUT: Final = timedelta(seconds=180)
"""How long a session may be without an owner: LiveAvatar ends an abandoned one after about
200 s (two measurements by a third party, 194 and 210 s)."""

RELEASE_TIMEOUT: Final = timedelta(seconds=5)
"""How long the owner may take to let go after the stop, before it is cancelled."""

SERVING_TIMEOUT: Final = timedelta(seconds=10)
"""How long the parts of a session that is over may take to stop."""

MAX_AWAITED_SPEAKS: Final = 6
"""The server takes ten updates in flight for a workflow; the rest is kept for interrupts."""

DURATION_WITHOUT_A_LIMIT: Final = timedelta(hours=1)
"""When neither the request nor LiveAvatar names a limit."""

HISTORY_ROOM: Final = 0.8
HISTORY_END: Final = 0.95
"""Of the server's own limits, beyond which it ends a workflow without its cleanup: commands are
refused then, and the session ends."""
MAX_HISTORY_EVENTS: Final = 51_200
MAX_HISTORY_BYTES: Final = 50 * 1024 * 1024
MAX_SIGNALS: Final = 10_000
"""Temporal's defaults (``limit.historyCount.error``, ``limit.historySize.error``,
``history.maximumSignalsPerExecution``)."""
