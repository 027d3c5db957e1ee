"""Builds Temporal workers from settings: what runs in a role, on which queue, with what limits."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from opentelemetry.metrics import Meter, NoOpMeterProvider
from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.janitor.activity import JanitorActivities
from activities.janitor.metrics import JanitorMetrics
from activities.janitor.round import JanitorRules
from activities.provider.rooms import LiveKitSettings, RoomActivities
from activities.provider.sessions import ProviderActivities
from activities.streaming.stream_activities import StreamActivities
from avatar_sessions.contract import names
from avatar_sessions.seal import Seal
from liveavatar_lite import LiveAvatar
from owner.clips.address_policy import ClipPolicy
from owner.clips.source import ClipSource
from owner.ingress.server import IngressServer, IngressSettings
from owner.ingress.tickets import Tickets
from owner.registry import SessionRegistry
from owner.session import OwnerLimits
from workers.settings import WorkerSettings
from workflows.janitor import AvatarJanitor
from workflows.session import AvatarSession

STICKY_TIMEOUT: Final = timedelta(seconds=1)
"""How long the first command after a crash of a workflow worker waits (10 s by default)."""
STREAM_POLLS: Final = 2
"""Kept low: each poll of a stopped process (SIGSTOP) takes a session that it cannot run."""
HEARTBEAT_THROTTLE: Final = timedelta(seconds=5)
"""The limit for how long a cancellation takes to reach a stream with the SDK's heartbeats."""
CLIP_HEARTBEAT_THROTTLE: Final = timedelta(milliseconds=200)
HAND_OVER_SHARE: Final = 0.55
"""The share of the drain timeout in which sessions are handed over."""
CALL_HEARTBEAT_THROTTLE: Final = timedelta(seconds=1)
"""Short calls last seconds and time out after four seconds without a heartbeat."""

REPLY_TIMEOUT_S: Final = 15.0
CALL_TIMEOUT_S: Final = 20.0
"""A start takes one to three seconds; its activity may take 40 s."""


class Role(StrEnum):
    """What a worker process does."""

    ALL = "all"
    SESSIONS = "sessions"  # workflows and short calls
    STREAMS = "streams"  # owns sessions
    JANITOR = "janitor"  # ends sessions and rooms whose workflow has closed

    @property
    def sweeps(self) -> bool:
        """Whether this role includes the janitor."""
        return self in (Role.ALL, Role.JANITOR)


@dataclass
class WorkerSet:
    """The Temporal workers of one process, in the order of their shutdown."""

    workers: list[Worker]
    registry: SessionRegistry
    """The sessions that this process owns."""
    ingress: IngressServer | None = None
    """Where speakers reach the sessions; for processes that own sessions."""
    streaming: StreamActivities | None = None
    """The activities that own the sessions; closed after the workers."""


PASSED_THROUGH: Final = (
    "avatar_sessions",
    "liveavatar_lite",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "workflows.parts",
)
"""Packages that the sandbox does not import again for each session: they keep no state and do no
I/O (import-linter checks that). Importing them took a third of a session's first workflow task."""


def workflow_runner() -> SandboxedWorkflowRunner:
    """Return the sandbox of the workflows."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
    return SandboxedWorkflowRunner(restrictions=restrictions)


def liveavatar_for(settings: WorkerSettings) -> LiveAvatar:
    """Return a client of LiveAvatar's REST API, with timeouts below those of the activities."""
    return LiveAvatar(
        settings.liveavatar_api_key,
        base_url=settings.liveavatar_api_url,
        reply_timeout_s=REPLY_TIMEOUT_S,
        call_timeout_s=CALL_TIMEOUT_S,
    )


def worker_set_for(
    role: Role,
    client: Client,
    settings: WorkerSettings,
    liveavatar: LiveAvatar,
    meter: Meter | None = None,
) -> WorkerSet:
    """Build the workers of a role; ``meter`` takes their metrics, if there is one."""
    seal = Seal(settings.seal_keys)
    registry = SessionRegistry()
    workers: list[Worker] = []
    ingress: IngressServer | None = None
    streaming: StreamActivities | None = None
    if role in (Role.ALL, Role.STREAMS):
        tickets = Tickets(settings.ticket_ttl_s)
        ingress = IngressServer(_ingress_settings(settings), registry, tickets)
        # Unique to each process start: a restarted process must not get its predecessor's commands.
        queue = names.owner_task_queue(uuid.uuid4().hex[:12])
        streaming = _streaming(settings, liveavatar, seal, registry, tickets, ingress, queue)
        workers += _owner_workers(client, settings, streaming, queue)
    if role in (Role.ALL, Role.SESSIONS):
        workers.append(_sessions_worker(client, settings, liveavatar, seal))
    if role.sweeps:
        workers.append(
            _janitor_worker(
                client, settings, liveavatar, meter or NoOpMeterProvider().get_meter(__name__)
            )
        )
    return WorkerSet(workers=workers, registry=registry, ingress=ingress, streaming=streaming)


def _sessions_worker(
    client: Client, settings: WorkerSettings, liveavatar: LiveAvatar, seal: Seal
) -> Worker:
    provisioning = ProviderActivities(liveavatar, seal)
    rooms = RoomActivities(_livekit(settings), seal)
    activities: Sequence[Callable[..., Any]] = [
        provisioning.mint_token,
        provisioning.start_session,
        provisioning.stop_session,
        rooms.create_room,
        rooms.grant_access,
        rooms.clean_room,
    ]
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=[AvatarSession],
        activities=activities,
        workflow_runner=workflow_runner(),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=CALL_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=settings.drain_timeout_s),
    )


def _janitor_worker(
    client: Client, settings: WorkerSettings, liveavatar: LiveAvatar, meter: Meter
) -> Worker:
    rules = JanitorRules(
        dry_run=settings.janitor_dry_run,
        owns_key=settings.janitor_owns_key,
        grace_s=settings.janitor_grace_s,
    )
    janitor = JanitorActivities(liveavatar, _livekit(settings), rules, JanitorMetrics(meter))
    return Worker(
        client,
        task_queue=names.JANITOR_TASK_QUEUE,
        workflows=[AvatarJanitor],
        activities=[janitor.reap],
        workflow_runner=workflow_runner(),
        # One round is due at a time, and another may be started by hand.
        max_concurrent_activities=4,
        max_cached_workflows=10,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        # A round that is cut short is repeated, by another janitor or at the next interval.
        graceful_shutdown_timeout=timedelta(seconds=min(2.0, settings.drain_timeout_s)),
    )


def _streaming(
    settings: WorkerSettings,
    liveavatar: LiveAvatar,
    seal: Seal,
    registry: SessionRegistry,
    tickets: Tickets,
    ingress: IngressServer,
    queue: str,
) -> StreamActivities:
    policy = ClipPolicy(
        folder=settings.clip_folder,
        allow_private_addresses=settings.clip_allow_private_addresses,
    )
    return StreamActivities(
        owned=registry,
        clips=ClipSource(policy, seal),
        liveavatar=liveavatar,
        seal=seal,
        queue=queue,
        limits=OwnerLimits(max_lead_s=settings.max_lead_s, keep_alive_s=settings.keep_alive_s),
        tickets=tickets,
        ingress_url=lambda: ingress.url,
        seal_texts=settings.seal_texts,
        unsupervised_limit_s=settings.unsupervised_s,
        drain_within_s=HAND_OVER_SHARE * settings.drain_timeout_s,
    )


def _owner_workers(
    client: Client, settings: WorkerSettings, streaming: StreamActivities, queue: str
) -> list[Worker]:
    streams = Worker(
        client,
        task_queue=names.STREAMS_TASK_QUEUE,
        activities=[streaming.stream_audio],
        max_concurrent_activities=settings.max_sessions,
        max_concurrent_activity_task_polls=STREAM_POLLS,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        # Sessions are handed over one by one; this is for an activity that hangs.
        graceful_shutdown_timeout=timedelta(seconds=0.8 * settings.drain_timeout_s),
    )
    inbox = Worker(
        client,
        task_queue=queue,
        activities=[streaming.deliver_command, streaming.speak, streaming.grant_speaker],
        # An utterance takes a slot while it lasts; a command must not wait for one.
        max_concurrent_activities=2 * settings.max_sessions + 50,
        # The position in a clip is a heartbeat at each chunk: the next owner needs a recent one.
        max_heartbeat_throttle_interval=CLIP_HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=2),
    )
    return [streams, inbox]


def _ingress_settings(settings: WorkerSettings) -> IngressSettings:
    return IngressSettings(
        host=settings.ingress_host,
        port=settings.ingress_port,
        url=settings.ingress_url,
        certificate=settings.ingress_certificate,
        private_key=settings.ingress_private_key,
        origins=settings.ingress_origins,
        path_tickets=settings.ingress_path_tickets,
    )


def _livekit(settings: WorkerSettings) -> LiveKitSettings | None:
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        return None
    return LiveKitSettings(
        url=settings.livekit_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret,
    )
