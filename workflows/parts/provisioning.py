"""LiveAvatar and LiveKit as the session workflow sees them: a few activities and their story.

Opens generations, streams, grants access, stops and cleans. Knows nothing of commands.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        CreatedRoom,
        CreateRoom,
        Epoch,
        GrantAccess,
        GrantedAccess,
        GrantedSpeaker,
        GrantSpeaker,
        MintedSession,
        MintToken,
        OwnerReady,
        SessionStarted,
        StartSession,
    )
    from avatar_sessions.contract.messages import (
        Attach,
        CleanupReport,
        GenerationReport,
        RoomAccess,
        SealedAccess,
        SessionRequest,
        SpeakerAccess,
    )
    from avatar_sessions.contract.states import EndReason, SessionState

from workflows.parts import options
from workflows.parts.cleanup import Cleanup
from workflows.parts.execute import execute
from workflows.parts.failures import (
    failure_of,
    limit_waited_for,
    retry_delay,
    start_outcome_unknown,
)
from workflows.parts.record import Generation, SessionRecord
from workflows.parts.streams import Stream, StreamNumbers

AGENT_IDENTITY = "agent"
GENERATION_MARK = "-generation-"
"""Between the avatar's name and a number, from the second generation of a session on."""
STOP_REASONS = {
    EndReason.IDLE_TIMEOUT: "IDLE_TIMEOUT",
    EndReason.MAX_DURATION: "MAX_DURATION_REACHED",
}
"""LiveAvatar's words for ours; everything else is USER_CLOSED."""


class Provisioning:
    """The outside of one session."""

    def __init__(self, record: SessionRecord) -> None:
        self._record = record
        self.stream: Stream | None = None
        """The generation that speaks; None before the first one, and between two."""
        self.successor: Stream | None = None
        """A generation that is there and waits to take over."""
        self._room: CreatedRoom | None = None
        self._room_asked_for: str | None = None
        self._identities: list[str] = []
        self._numbers = StreamNumbers()
        self._starting = False
        self._cleanup = Cleanup(record)
        self.problem: str | None = None
        """What went wrong last, for the person who reads the report."""

    # ---------------------------------------------------------------- start

    async def open(self, request: SessionRequest, *, wait_at_limit: bool = True) -> Stream:
        """Open the next generation: mint and start, until one start's outcome is known.

        Args:
            request: what the session was asked for with.
            wait_at_limit: wait for a turn where LiveAvatar says that there is none now.

        Raises:
            ActivityError: LiveAvatar or LiveKit refused, or could not be reached in time.
            asyncio.CancelledError: the session ends.
        """
        self._check_wanted()
        if request.room is not None:
            await self._enter_room(request)
        for attempt in range(1, options.MAX_GENERATIONS + 1):
            minted = await self._mint(request, wait_at_limit=wait_at_limit)
            generation = self._record.add_generation(minted.provider_session_id)
            try:
                started = await self._start_when_allowed(
                    generation, minted, wait_at_limit=wait_at_limit
                )
            except ActivityError as error:
                if not start_outcome_unknown(error):
                    raise
                self.problem = failure_of(error).message
                if self._record.end_cause is not None:
                    raise  # the end stops it
                await self._stop(generation, "USER_CLOSED")
                # The start may have landed after this stop.
                self._cleanup.doubt(generation)
                if attempt == options.MAX_GENERATIONS:
                    raise
            else:
                self._check_wanted()
                return Stream(self._record.session_key, self._numbers, generation, started)
        raise AssertionError("unreachable")

    async def _enter_room(self, request: SessionRequest) -> None:
        """Create the room of our own, or get the next avatar's access to it.

        Each generation's avatar has its own name: two of one name would put each other out.
        """
        assert request.room is not None
        identity = request.room.avatar_identity
        if self._identities:
            identity += f"{GENERATION_MARK}{len(self._identities) + 1}"
        self._identities.append(identity)
        name = request.room.name or names.default_room_name(
            self._record.session_key, workflow.info().run_id
        )
        self._room_asked_for = name
        limit_s = request.max_duration_s or options.DURATION_WITHOUT_A_LIMIT.total_seconds()
        self._room = await execute(
            names.ACTIVITY_CREATE_ROOM,
            CreateRoom(
                session_key=self._record.session_key,
                room=name,
                avatar_identity=identity,
                max_duration_s=limit_s,
            ),
            CreatedRoom,
            options.CREATE_ROOM,
            summary=f"room {name} for {identity}",
        )

    async def _mint(self, request: SessionRequest, *, wait_at_limit: bool) -> MintedSession:
        """Get a session token; again if LiveAvatar says that there are too many calls."""
        self._check_wanted()
        self._record.begin_step(SessionState.MINTING)
        pause = options.MINT_PAUSE
        while True:
            try:
                minted = await execute(
                    names.ACTIVITY_MINT_TOKEN,
                    MintToken(request=request, room=self._room),
                    MintedSession,
                    options.SHORT_CALL,
                    summary="mint LITE token",
                )
            except ActivityError as error:
                if not wait_at_limit or self._show_limit_wait(error) is None:
                    raise
                delay = max(retry_delay(error) or pause, pause)
                await workflow.sleep(delay, summary="before asking for a token again")
                pause = min(2 * pause, options.MINT_PAUSE_MAX)
            else:
                self._record.set_pending_wait(None)
                return minted

    def _show_limit_wait(self, error: ActivityError) -> str | None:
        """Show what a call waits for, if nothing but its turn is missing; None: something else."""
        turn = limit_waited_for(error)
        if turn is not None:
            self.problem = failure_of(error).message
            self._record.set_pending_wait(turn)
        return turn

    async def _start_when_allowed(
        self, generation: Generation, minted: MintedSession, *, wait_at_limit: bool
    ) -> SessionStarted:
        """Start, again if LiveAvatar said that nothing was billed and that later is better.

        A turn is waited for until the session's start timeout; inside the activity, for that
        costs no events. The first try has no patience: so the wait is known, and shown, at once.
        """
        self._check_wanted()
        self._record.begin_step(SessionState.STARTING)
        tries, pause = 1, options.START_PAUSE
        after, patience = timedelta(0), timedelta(0)
        while True:
            try:
                started = await self._start(generation, minted, after, patience)
            except ActivityError as error:
                if is_cancelled_exception(error) or start_outcome_unknown(error):
                    raise
                generation.started_at = None  # refused: not billed
                self.problem = failure_of(error).message
                delay = retry_delay(error)
                if not wait_at_limit and limit_waited_for(error) is not None:
                    raise
                if self._show_limit_wait(error) is not None:
                    after, patience = delay or timedelta(0), options.LIMIT_WAIT
                    if after > patience:
                        await workflow.sleep(after, summary="LiveAvatar asked for this pause")
                        after = timedelta(0)
                    continue
                if delay is None or tries == options.START_TRIES:
                    raise
                after, patience = timedelta(0), timedelta(0)
                await workflow.sleep(delay or pause, summary="before starting again")
                tries, pause = tries + 1, 2 * pause
            else:
                self._record.set_pending_wait(None)
                return started

    async def _start(
        self,
        generation: Generation,
        minted: MintedSession,
        after: timedelta,
        patience: timedelta,
    ) -> SessionStarted:
        self._check_wanted()
        # The id is recorded in the same step that begins billing: never a session unknown.
        generation.started_at = workflow.now()
        self._starting = True
        try:
            started = await execute(
                names.ACTIVITY_START_SESSION,
                StartSession(
                    provider_session_id=generation.provider_session_id,
                    session_token=minted.session_token,
                    after_s=after.total_seconds(),
                    patience_s=patience.total_seconds(),
                ),
                SessionStarted,
                options.START_CALL,
                summary=f"start session (generation {generation.number})",
            )
        finally:
            self._starting = False
        generation.confirmed_started, generation.started_at = True, started.started_at
        return started

    def _check_wanted(self) -> None:
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends: billing must not begin")

    # -------------------------------------------------------------- streams

    def takes(self, identity: str | None, request: SessionRequest | None) -> bool:
        """Whether a viewer's name in a room of our own is somebody else's already."""
        room = request.room if request is not None else None
        if room is None or identity is None:
            return False
        avatar, _, number = identity.partition(GENERATION_MARK)
        return identity == AGENT_IDENTITY or (
            avatar == room.avatar_identity and (not number or number.isdigit())
        )

    def streams_to(self, ready: OwnerReady) -> bool:
        """Whether a signal speaks of the stream that runs now, and not of another or of none."""
        return self.stream is not None and self.stream.is_owned_by(ready)

    def streams_session(self, provider_session_id: str) -> bool:
        """Whether this LiveAvatar session is the one that is held now, or should be."""
        stream = self.stream
        return stream is not None and stream.started.provider_session_id == provider_session_id

    def announces(self, ready: OwnerReady) -> bool:
        """Whether a signal comes from the next generation's owner; remembered if so."""
        if self.successor is None or not self.successor.is_owned_by(ready):
            return False
        self.successor.ready = ready
        return True

    def streamed(self, epoch: Epoch) -> bool:
        """Whether an owner of this session has had that epoch, or may."""
        return self._numbers.had(epoch)

    def replace_owner(self) -> None:
        """Let another owner take over: the present one does not answer."""
        if self.stream is not None:
            self.stream.replace()

    async def access(self, request: Attach) -> SealedAccess:
        """Access to the room for a viewer and for an agent, and to the owner for a speaker.

        Raises:
            ActivityError: tokens for a room of our own could not be minted, or the owner did not
                give a ticket.
            ApplicationError: LiveAvatar gave none for its room.
        """
        access = await self._room_access(request)
        if not request.speaker:
            return access
        return access.model_copy(update={"speaker": await self._speaker_access()})

    async def _speaker_access(self) -> SpeakerAccess | None:
        owner = self._record.owner
        assert owner is not None
        if not owner.speakers:
            return None
        granted = owner.speaker
        if granted is None or granted.expires_at - workflow.now() < options.FRESH_TICKET:
            granted = await self._grant_speaker(owner)
        return SpeakerAccess(
            ingress_url=granted.ingress_url,
            sealed_ticket=granted.ticket,
            epoch=owner.epoch,
            expires_at=granted.expires_at,
        )

    async def _grant_speaker(self, owner: OwnerReady) -> GrantedSpeaker:
        return await execute(
            names.ACTIVITY_GRANT_SPEAKER,
            GrantSpeaker(session_key=self._record.session_key, epoch=owner.epoch),
            GrantedSpeaker,
            options.PROBE,
            summary="grant a speaker access to the owner",
            task_queue=owner.queue,
        )

    async def _room_access(self, request: Attach) -> SealedAccess:
        stream = self.stream
        assert stream is not None, "LIVE has one"
        started = stream.started
        if self._room is None:
            return self._hosted_access(started)
        viewer = request.viewer_identity or f"viewer-{workflow.uuid4().hex[:8]}"
        granted: GrantedAccess = await execute(
            names.ACTIVITY_GRANT_ACCESS,
            GrantAccess(
                session_key=self._record.session_key,
                room=self._room.room,
                viewer_identity=viewer,
                agent_identity=AGENT_IDENTITY,
                valid_s=max(
                    60.0,
                    (self._record.ends_at - workflow.now()).total_seconds()
                    if self._record.ends_at
                    else 0.0,
                ),
            ),
            GrantedAccess,
            options.SHORT_CALL,
            summary="grant access to the room",
        )
        url = granted.livekit_url
        return SealedAccess(
            session_key=self._record.session_key,
            state=self._record.state,
            room=self._room.room,
            viewer=RoomAccess(livekit_url=url, sealed_token=granted.viewer_token, identity=viewer),
            agent=RoomAccess(
                livekit_url=url, sealed_token=granted.agent_token, identity=AGENT_IDENTITY
            ),
        )

    def _hosted_access(self, started: SessionStarted) -> SealedAccess:
        url = started.livekit_url
        if url is None or started.viewer_token is None:
            raise ApplicationError("LiveAvatar gave no access to its room", type="NoRoomAccess")
        agent = (
            RoomAccess(livekit_url=url, sealed_token=started.agent_token)
            if started.agent_token
            else None
        )
        return SealedAccess(
            session_key=self._record.session_key,
            state=self._record.state,
            viewer=RoomAccess(livekit_url=url, sealed_token=started.viewer_token),
            agent=agent,
        )

    # ------------------------------------------------------------------ end

    async def stop(self, reason: EndReason) -> None:
        """Stop every generation that may be billed."""
        word = STOP_REASONS.get(reason, "USER_CLOSED")
        await self._cleanup.stop_all(word)
        if self._starting:
            # A /start under way is waited for: its reply tells what there is to stop.
            await workflow.wait_condition(lambda: not self._starting)
            await self._cleanup.stop_all(word)

    async def stop_generation(self, generation: Generation) -> None:
        """Stop a generation that speaks no more."""
        await self._stop(generation, "USER_CLOSED")

    async def _stop(self, generation: Generation, reason: str) -> None:
        """Stop one generation, and remember what it cost."""
        await self._cleanup.stop(generation, reason)

    async def clean_room(self, request: SessionRequest | None) -> None:
        """Leave no room of our own behind; a hosted one goes with its session."""
        if self._room_asked_for is None or request is None or request.room is None:
            return
        await self._cleanup.clean_room(self._room_asked_for, self._identities, request)

    # --------------------------------------------------------------- report

    def silent_at(self, now: datetime) -> datetime:
        """When the last generation was stopped, by our clock."""
        reports = [one.report for one in self._record.generations if one.report is not None]
        stopped = [one.stopped_at for one in reports if one.stopped_at is not None]
        silent_at = max(stopped, default=now)
        # LiveAvatar's clock is not ours.
        return max(silent_at, self._record.live_at) if self._record.live_at else silent_at

    def generation_reports(self) -> list[GenerationReport]:
        """All generations, also those that never began to be billed."""
        return [
            one.report
            or GenerationReport(number=one.number, provider_session_id=one.provider_session_id)
            for one in self._record.generations
        ]

    def cleanup_report(self) -> CleanupReport:
        """What is left behind: nothing, if all went well."""
        return self._cleanup.report()
