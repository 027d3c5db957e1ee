"""The scan at the end of each run finds secrets in logs and histories."""

from __future__ import annotations

from pathlib import Path

from livekit import api
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.history.v1 import HistoryEvent

from avatar_sessions.seal import Seal
from tests.support.secret_scan import find_secrets, kinds_in, remember


def token() -> str:
    return api.AccessToken("fake-key", "an-obviously-fake-secret-of-32-bytes").to_jwt()


def test_a_token_in_a_history_is_found_and_a_sealed_one_is_not() -> None:
    def event(text: str) -> bytes:
        event = HistoryEvent()
        payload = Payload(data=f'{{"token":"{text}"}}'.encode())
        event.activity_task_completed_event_attributes.result.CopyFrom(Payloads(payloads=[payload]))
        return event.SerializeToString()

    assert list(kinds_in(event(token()))) == ["a JWT (session or LiveKit token)"]
    assert not list(kinds_in(event(Seal([Seal.new_key()]).seal(token()))))


def test_secrets_in_logs_are_reported_by_file_line_and_kind(tmp_path: Path) -> None:
    remember("obviously-fake-remembered-secret", "a remembered secret")
    address = "wss://media.example.org/v2-alpha/interactive-avatar/session/1?key=fake"
    (tmp_path / "a.log").write_text(f"fine\nopening {address}\n")
    (tmp_path / "b.log").write_text("key obviously-fake-remembered-secret\n")
    assert find_secrets(tmp_path) == [
        "a.log:2: a media WebSocket's address",
        "b.log:1: a remembered secret",
    ]
