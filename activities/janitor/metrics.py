"""What the janitor counts, for whoever collects by OpenTelemetry. Numbers only, no ids."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from avatar_sessions.contract.janitor import Decision, JanitorFinding


class JanitorMetrics:
    """Counters of what was ended, gauges of the last round. Dry runs count as rounds only."""

    def __init__(self, meter: Meter) -> None:
        self._rounds = meter.create_counter(
            "avatar_janitor_rounds_total", description="Rounds that were made"
        )
        self._stopped = meter.create_counter(
            "avatar_janitor_sessions_stopped_total",
            description="LiveAvatar sessions that were billed though nobody lived in them",
        )
        self._deleted = meter.create_counter(
            "avatar_janitor_rooms_deleted_total", description="Rooms of sessions that were over"
        )
        self._failures = meter.create_counter(
            "avatar_janitor_failures_total",
            description="What should have ended and did not, and what could not be found out",
        )
        self._found = meter.create_gauge(
            "avatar_janitor_sessions_found", description="LiveAvatar sessions billed to the API key"
        )
        self._strangers = meter.create_gauge(
            "avatar_janitor_sessions_strangers", description="Those that no workflow has opened"
        )
        self._success = meter.create_gauge(
            "avatar_janitor_last_success_timestamp_seconds",
            unit="s",
            description="End of the last round in which all was seen and all that should end did",
        )

    def count(self, finding: JanitorFinding) -> None:
        """Add a round."""
        sessions = finding.totals.sessions_by_decision
        self._rounds.add(1)
        self._stopped.add(sessions.get(Decision.STOPPED, 0))
        self._deleted.add(finding.totals.rooms_by_decision.get(Decision.DELETED, 0))
        self._failures.add(finding.totals.count(Decision.FAILED) + len(finding.problems))
        if not finding.problems:  # what was not seen is not zero
            self._found.set(finding.totals.sessions)
            self._strangers.set(
                sessions.get(Decision.STRANGER, 0) + sessions.get(Decision.TOO_YOUNG, 0)
            )
        if finding.succeeded:
            self._success.set(finding.ended_at.timestamp())
