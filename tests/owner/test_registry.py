"""The registry: sessions by key and epoch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from owner.registry import SessionRegistry
from owner.session import OwnedSession


def session(key: str, stream: int, attempt: int = 1) -> OwnedSession:
    return cast(OwnedSession, SimpleNamespace(key=key, epoch=(stream, attempt)))


def test_a_session_is_found_in_exactly_its_epoch() -> None:
    """During a rotation a key has two sessions; a command for the old one must not reach the
    next."""
    registry = SessionRegistry()
    old, new = session("a", 1), session("a", 2)
    registry.add(old)
    registry.add(new)
    assert registry.get("a", (1, 1)) is old
    assert registry.get("a", (2, 1)) is new
    assert registry.get("a", (2, 2)) is None
    assert registry.get("b", (1, 1)) is None
    assert len(registry) == 2


def test_an_epoch_changes_with_adoption() -> None:
    registry = SessionRegistry()
    adopted = session("a", 1)
    registry.add(adopted)
    adopted.epoch = (1, 2)
    assert registry.get("a", (1, 1)) is None
    assert registry.get("a", (1, 2)) is adopted


def test_a_removed_session_is_not_found() -> None:
    registry = SessionRegistry()
    one = session("a", 1)
    registry.add(one)
    registry.remove(one)
    registry.remove(one)
    assert registry.get("a", (1, 1)) is None
    assert registry.all() == []
