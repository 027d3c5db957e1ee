"""Maps replies of LiveAvatar's REST API to errors. Pure: no request is made here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import httpx

from .errors import (
    ApiError,
    BadRequest,
    ConcurrencyLimit,
    DurationOverPlan,
    Forbidden,
    InvalidRequest,
    NoCredits,
    NotFound,
    RateLimited,
    SandboxAvatar,
    ServerError,
    Unauthorized,
    UnexpectedResponse,
)

MAX_DETAIL_CHARS: Final = 500
SHORTEST_SECRET_CHARS: Final = 8
"""Shorter secrets occur in tests only; striking out every ``t`` would make texts unreadable."""
CODE_CONCURRENCY: Final = 4003
_DURATION: Final = re.compile(r"max_session_duration.*maximum allowed \((\d+)\s*s?\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed response, the same for every route.

    Attributes:
        data: the envelope's ``data``; None if there is none.
        code: the envelope's ``code``: 1000 in real traffic, 100 in the documents, 4xxx in errors.
        detail: the service's message, without secrets, on one line.
        problems: a 422's problems, one line each.
    """

    status: int
    data: Any
    code: int | None
    detail: str
    problems: tuple[str, ...]
    retry_after_s: float | None

    @classmethod
    def read(cls, response: httpx.Response, secrets: Collection[str], now: datetime) -> Reply:
        """Parse a complete response. ``secrets`` are removed from every text."""
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        problems: tuple[str, ...] = ()
        if isinstance(body, dict):
            code = body.get("code")
            problems = tuple(_strike(text, secrets) for text in _problems_in(body.get("detail")))
            detail = "; ".join(problems) or _message_in(body)
        else:
            code, detail = None, _message_outside_json(response)
        return cls(
            status=response.status_code,
            data=body.get("data") if isinstance(body, dict) else None,
            code=code if isinstance(code, int) else None,
            detail=_strike(" ".join(detail.split()), secrets)[:MAX_DETAIL_CHARS],
            problems=problems,
            retry_after_s=_retry_after_s(response, now),
        )

    @property
    def succeeded(self) -> bool:
        """Any 2xx: the documented envelope codes differ from those in real traffic."""
        return 200 <= self.status < 300


def api_error(reply: Reply, call: str) -> ApiError:
    """The error for an unsuccessful reply."""
    arguments = (reply.status, reply.code, reply.detail, reply.retry_after_s)
    if reply.status == 422:
        return InvalidRequest(*arguments, call=call, problems=reply.problems)
    limit = _DURATION.search(reply.detail) if reply.status == 400 else None
    if limit:
        return DurationOverPlan(*arguments, call=call, maximum_s=int(limit.group(1)))
    return _kind(reply)(*arguments, call=call)


def _kind(reply: Reply) -> type[ApiError]:
    text = reply.detail.lower()
    match reply.status:
        case 400 if "sandbox" in text and "avatar" in text:
            return SandboxAvatar
        case 402:
            return NoCredits
        case 403 if "concurren" in text:
            return ConcurrencyLimit
        case 403 if "credit" in text:  # its code is not known: decide by the text
            return NoCredits
        case 403 if reply.code == CODE_CONCURRENCY:
            return ConcurrencyLimit
        case status if status in _KIND_OF_STATUS:
            return _KIND_OF_STATUS[status]
        case status if 500 <= status < 600:
            return ServerError
        case _:
            return UnexpectedResponse


_KIND_OF_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    429: RateLimited,
}


def _problems_in(detail: object) -> list[str]:
    """FastAPI's list as lines, without ``input`` and ``ctx``, which repeat what was sent."""
    if not isinstance(detail, list):
        return []
    return [
        f"{'.'.join(str(part) for part in problem.get('loc') or ())}: {problem.get('msg', '')}"
        for problem in detail
        if isinstance(problem, dict)
    ]


def _message_in(body: Mapping[str, Any]) -> str:
    """The envelope's message; else ``data[0].message``, or FastAPI's ``detail``."""
    listed = body.get("data")
    first = listed[0] if isinstance(listed, list) and listed else None
    candidates = [
        body.get("message"),
        first.get("message") if isinstance(first, dict) else None,
        body.get("detail"),
    ]
    texts = [text for text in candidates if isinstance(text, str) and text]
    return "; ".join(dict.fromkeys(texts))


def _message_outside_json(response: httpx.Response) -> str:
    """A plain text body; a gateway's HTML page is not quoted."""
    if response.headers.get("content-type", "").startswith("text/plain"):
        return response.text
    return response.reason_phrase


def _strike(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET_CHARS:
            text = text.replace(secret, "**********")
    return text


def _retry_after_s(response: httpx.Response, now: datetime) -> float | None:
    """``Retry-After`` as seconds or HTTP date; a 429 without it falls back to the window's reset.

    The reset header is ignored on other replies: it is also on refusals that a retry cannot change.
    """
    value = response.headers.get("retry-after", "")
    if not value and response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        value = response.headers.get("x-ratelimit-reset", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
