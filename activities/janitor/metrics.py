"""The janitor's OpenTelemetry metrics. Numbers only, no ids."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from avatar_sessions.contract.janitor import Decision, JanitorFinding


class JanitorMetrics:
    """Counters of what was stopped and deleted, gauges of the last round.

    A dry run counts as a round and nothing else.
    """

    def __init__(self, meter: Meter) -> None:
        self._rounds = meter.create_counter(
            "avatar_janitor_rounds_total", description="Completed rounds"
        )
        self._stopped = meter.create_counter(
            "avatar_janitor_sessions_stopped_total",
            description="LiveAvatar sessions stopped because their workflow had closed",
        )
        self._deleted = meter.create_counter(
            "avatar_janitor_rooms_deleted_total",
            description="Rooms deleted because their workflow had closed",
        )
        self._failures = meter.create_counter(
            "avatar_janitor_failures_total",
            description="Failed stops and deletions, and failed look-ups",
        )
        self._found = meter.create_gauge(
            "avatar_janitor_sessions_found", description="LiveAvatar sessions billed to the API key"
        )
        self._strangers = meter.create_gauge(
            "avatar_janitor_sessions_strangers",
            description="Billed LiveAvatar sessions without a workflow",
        )
        self._success = meter.create_gauge(
            "avatar_janitor_last_success_timestamp_seconds",
            unit="s",
            description="End of the last round without a problem or a failure",
        )

    def count(self, finding: JanitorFinding) -> None:
        """Record one round."""
        sessions = finding.totals.sessions_by_decision
        self._rounds.add(1)
        self._stopped.add(sessions.get(Decision.STOPPED, 0))
        self._deleted.add(finding.totals.rooms_by_decision.get(Decision.DELETED, 0))
        self._failures.add(finding.totals.count(Decision.FAILED) + len(finding.problems))
        if not finding.problems:  # an incomplete list must not read as zero
            self._found.set(finding.totals.sessions)
            self._strangers.set(
                sessions.get(Decision.STRANGER, 0) + sessions.get(Decision.TOO_YOUNG, 0)
            )
        if finding.succeeded:
            self._success.set(finding.ended_at.timestamp())
