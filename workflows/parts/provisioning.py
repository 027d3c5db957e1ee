"""Opens the session's generations: creates the room, mints a token, starts the LiveAvatar session.

Decides what a failed start means, and turns LiveAvatar's limits (429 rate limit, 403 concurrency
limit) into waits. Knows nothing of commands and owners.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        CreatedRoom,
        CreateRoom,
        MintedSession,
        MintToken,
        SessionStarted,
        StartSession,
    )
    from avatar_sessions.contract.messages import OwnRoom, SessionRequest
    from avatar_sessions.contract.states import EndReason, SessionState

from workflows.parts import options
from workflows.parts.access import avatar_identity
from workflows.parts.audio_streams import Stream, Streams
from workflows.parts.cleanup import USER_CLOSED, Cleanup
from workflows.parts.execute_activity import execute
from workflows.parts.failures import (
    failure_of,
    limit_waited_for,
    retry_delay,
    start_outcome_unknown,
)
from workflows.parts.session_state import Generation, SessionRecord

STOP_REASONS = {
    EndReason.IDLE_TIMEOUT: "IDLE_TIMEOUT",
    EndReason.MAX_DURATION: "MAX_DURATION_REACHED",
}
"""LiveAvatar's stop reason for a session's end reason; USER_CLOSED for every other one."""


class Provisioning:
    """Opens generations of one session, and stops them at its end."""

    def __init__(self, record: SessionRecord, streams: Streams, cleanup: Cleanup) -> None:
        self._record = record
        self._streams = streams
        self._cleanup = cleanup
        self._room: CreatedRoom | None = None
        self._requested_room: str | None = None
        self._identities: list[str] = []
        self._starting = False
        self.problem: str | None = None
        """The last failure, for the person who reads the report."""

    @property
    def room_name(self) -> str | None:
        """The room on the deployment's LiveKit server; None for a room that LiveAvatar hosts."""
        return None if self._room is None else self._room.room

    @property
    def started(self) -> SessionStarted:
        """LiveAvatar's answer to the start of the generation that speaks."""
        assert self._streams.current is not None, "LIVE has a stream"
        return self._streams.current.started

    # ---------------------------------------------------------------- start

    async def open(self, request: SessionRequest, *, wait_at_limit: bool = True) -> Stream:
        """Open the next generation: mint and start, until the outcome of one start is known.

        Args:
            request: the session's request.
            wait_at_limit: wait while LiveAvatar's limits allow no further session.

        Raises:
            ActivityError: LiveAvatar or LiveKit refused, or did not answer in time.
            asyncio.CancelledError: the session ends.
        """
        self._check_not_ending()
        if request.room is not None:
            await self._enter_room(request, request.room)
        for attempt in range(1, options.MAX_START_GENERATIONS + 1):
            minted = await self._mint(request, wait_at_limit=wait_at_limit)
            generation = self._record.add_generation(minted.provider_session_id)
            try:
                started = await self._start_within_limits(
                    generation, minted, wait_at_limit=wait_at_limit
                )
            except ActivityError as error:
                if not start_outcome_unknown(error):
                    raise
                self.problem = failure_of(error).message
                if self._record.end_cause is not None:
                    raise  # the session's end stops it
                await self._cleanup.stop(generation)
                # The start may still arrive after this stop.
                self._cleanup.stop_lost_start_later(generation)
                if attempt == options.MAX_START_GENERATIONS:
                    raise
            else:
                self._check_not_ending()
                return Stream(self._record.session_key, self._streams.numbers, generation, started)
        raise AssertionError("unreachable")

    async def _enter_room(self, request: SessionRequest, room: OwnRoom) -> None:
        """Create the session's room, or get the next avatar's token for it."""
        identity = avatar_identity(room, len(self._identities) + 1)
        self._identities.append(identity)
        name = room.name or names.default_room_name(
            self._record.session_key, workflow.info().run_id
        )
        self._requested_room = name
        limit_s = request.max_duration_s or options.DEFAULT_MAX_DURATION.total_seconds()
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
            summary=f"create room {name} for {identity}",
        )

    async def _mint(self, request: SessionRequest, *, wait_at_limit: bool) -> MintedSession:
        """Mint a session token; again while LiveAvatar's rate limit refuses."""
        self._check_not_ending()
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
                if not wait_at_limit or not self._show_limit_wait(error):
                    raise
                delay = max(retry_delay(error) or pause, pause)
                await workflow.sleep(delay, summary="pause before minting again")
                pause = min(2 * pause, options.MINT_PAUSE_MAX)
            else:
                self._record.set_pending_wait(None)
                return minted

    def _show_limit_wait(self, error: ActivityError) -> bool:
        """Show the LiveAvatar limit that a call waits for; False for every other failure."""
        limit = limit_waited_for(error)
        if limit is None:
            return False
        self.problem = failure_of(error).message
        self._record.set_pending_wait(limit)
        return True

    async def _start_within_limits(
        self, generation: Generation, minted: MintedSession, *, wait_at_limit: bool
    ) -> SessionStarted:
        """Start; again where nothing was billed and a retry can succeed.

        The wait at a limit lasts until the session's start timeout. It happens inside the
        activity, where it adds no events. Only the first attempt does not wait, so that the
        workflow can show the wait immediately.
        """
        self._check_not_ending()
        self._record.begin_step(SessionState.STARTING)
        tries, pause = 1, options.START_PAUSE
        delay, limit_wait = timedelta(0), timedelta(0)
        while True:
            try:
                started = await self._start(generation, minted, delay, limit_wait)
            except ActivityError as error:
                if is_cancelled_exception(error) or start_outcome_unknown(error):
                    raise
                generation.started_at = None  # refused: not billed
                self.problem = failure_of(error).message
                requested = retry_delay(error)
                if not wait_at_limit and limit_waited_for(error) is not None:
                    raise
                if self._show_limit_wait(error):
                    delay, limit_wait = requested or timedelta(0), options.LIMIT_WAIT
                    if delay > limit_wait:
                        await workflow.sleep(delay, summary="pause requested by LiveAvatar")
                        delay = timedelta(0)
                    continue
                if requested is None or tries == options.START_TRIES:
                    raise
                delay, limit_wait = timedelta(0), timedelta(0)
                await workflow.sleep(requested or pause, summary="pause before starting again")
                tries, pause = tries + 1, 2 * pause
            else:
                self._record.set_pending_wait(None)
                return started

    async def _start(
        self,
        generation: Generation,
        minted: MintedSession,
        delay: timedelta,
        limit_wait: timedelta,
    ) -> SessionStarted:
        self._check_not_ending()
        # The record has the id before billing can begin, so every billed session is known.
        requested_at = generation.started_at = workflow.now()
        self._starting = True
        try:
            started = await execute(
                names.ACTIVITY_START_SESSION,
                StartSession(
                    provider_session_id=generation.provider_session_id,
                    session_token=minted.session_token,
                    after_s=delay.total_seconds(),
                    patience_s=limit_wait.total_seconds(),
                ),
                SessionStarted,
                options.START_CALL,
                summary=f"start session (generation {generation.number})",
            )
        finally:
            self._starting = False
        # Deadlines count from here. The worker's wall clock may be wrong by hours; the workflow's
        # is the Temporal server's, and the start lies between these two moments.
        started_at = min(max(started.started_at, requested_at), workflow.now())
        generation.confirmed_started, generation.started_at = True, started_at
        return started.model_copy(update={"started_at": started_at})

    def _check_not_ending(self) -> None:
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends: billing must not begin")

    # ------------------------------------------------------------------ end

    async def stop_all(self, reason: EndReason) -> None:
        """Stop every generation that may be billed."""
        provider_reason = STOP_REASONS.get(reason, USER_CLOSED)
        await self._cleanup.stop_all(provider_reason)
        if self._starting:
            # The reply to a start in progress says which session to stop.
            await workflow.wait_condition(lambda: not self._starting)
            await self._cleanup.stop_all(provider_reason)

    async def clean_room(self, room: OwnRoom | None) -> None:
        """Clean up the session's room; LiveAvatar deletes a room that it hosts."""
        if self._requested_room is None or room is None:
            return
        await self._cleanup.clean_room(self._requested_room, self._identities, room)
