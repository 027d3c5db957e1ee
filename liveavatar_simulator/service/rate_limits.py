"""Rate limits as LiveAvatar documents them: per caller and route, in fixed windows of one second.

The limits per route are not known, so one limit applies to all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request

WINDOW_S: Final = 1
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether a call is allowed, and the headers of its reply."""

    allowed: bool
    headers: dict[str, str]


class RateLimits:
    """Counts the calls of the current window."""

    def __init__(self, calls_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = calls_per_s
        self._clock = clock
        self._window = 0
        self._calls: dict[tuple[str, str, str], int] = {}

    def count(self, request: Request) -> RateDecision:
        """Count one call."""
        window = int(self._clock() // WINDOW_S)
        if window != self._window:
            self._window = window
            self._calls.clear()
        route = _UUID.sub("{id}", request.url.path)
        key = (_caller(request), request.method, route)
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        if calls > self._limit:
            return RateDecision(False, over_limit_headers(self._limit, WINDOW_S))
        return RateDecision(True, _headers(self._limit, self._limit - calls, WINDOW_S))


def over_limit_headers(calls_per_s: int, retry_after_s: int) -> dict[str, str]:
    """The headers of a 429."""
    return _headers(calls_per_s, 0, retry_after_s) | {"Retry-After": str(retry_after_s)}


def _headers(limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(reset_s),
    }


def _caller(request: Request) -> str:
    """The caller's API key, else its token, else its address."""
    address = request.client.host if request.client else ""
    return request.headers.get("x-api-key") or request.headers.get("authorization") or address
