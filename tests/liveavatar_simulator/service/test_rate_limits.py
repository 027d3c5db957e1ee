"""Rate limits: per caller and route, in fixed windows of one second."""

from __future__ import annotations

import pytest
from fastapi import Request

from liveavatar_simulator.service.rate_limits import RateLimits, over_limit_headers

SESSION = "/v1/sessions/11111111-1111-4111-8111-111111111111"
OTHER_SESSION = "/v1/sessions/22222222-2222-4222-8222-222222222222"


class SteppedClock:
    """A clock that the test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def request(path: str = "/v1/sessions", method: str = "GET", key: str = "one-key") -> Request:
    return Request(
        {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"x-api-key", key.encode())],
            "client": ("127.0.0.1", 1),
        }
    )


def test_calls_within_the_limit_count_down(clock: SteppedClock) -> None:
    limits = RateLimits(2, clock)

    decisions = [limits.count(request()) for _ in range(3)]

    assert [each.allowed for each in decisions] == [True, True, False]
    assert [each.headers["X-RateLimit-Remaining"] for each in decisions] == ["1", "0", "0"]
    assert decisions[-1].headers["Retry-After"] == "1"


def test_the_next_window_starts_from_zero(clock: SteppedClock) -> None:
    limits = RateLimits(1, clock)
    assert limits.count(request()).allowed
    assert not limits.count(request()).allowed

    clock.now_s += 1

    assert limits.count(request()).allowed


def test_callers_methods_and_routes_are_counted_separately(clock: SteppedClock) -> None:
    limits = RateLimits(1, clock)

    assert limits.count(request()).allowed
    assert limits.count(request(key="other-key")).allowed
    assert limits.count(request(method="POST")).allowed
    assert limits.count(request("/v1/users/credits")).allowed


def test_all_sessions_share_the_limit_of_their_route(clock: SteppedClock) -> None:
    limits = RateLimits(1, clock)

    assert limits.count(request(SESSION)).allowed
    assert not limits.count(request(OTHER_SESSION)).allowed


def test_a_429_names_when_to_retry() -> None:
    assert over_limit_headers(5, 3) == {
        "X-RateLimit-Limit": "5",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "3",
        "Retry-After": "3",
    }
