"""From a reply of LiveAvatar's REST API to the error it means. Pure: no request is made here."""

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
"""Shorter ones are a test's: striking out every ``t`` would help nobody."""
CODE_CONCURRENCY: Final = 4003
_DURATION: Final = re.compile(r"max_session_duration.*maximum allowed \((\d+)\s*s?\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a response says, the same for every route.

    Attributes:
        data: the envelope's ``data``; None if there is none.
        code: the envelope's ``code``: 1000 in real traffic, 100 in the documents, 4xxx in errors.
        detail: the service's words, freed of secrets, one line.
        problems: a 422's list, rendered.
    """

    status: int
    data: Any
    code: int | None
    detail: str
    problems: tuple[str, ...]
    retry_after_s: float | None

    @classmethod
    def read(cls, response: httpx.Response, secrets: Collection[str], now: datetime) -> Reply:
        """Read a response whose body is complete. ``secrets`` are struck from every text."""
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        problems: tuple[str, ...] = ()
        if isinstance(body, dict):
            code = body.get("code")
            problems = tuple(_strike(text, secrets) for text in _problems_in(body.get("detail")))
            detail = "; ".join(problems) or _words_in(body)
        else:
            code, detail = None, _words_outside_json(response)
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
        """Any 2xx: the codes of the documentation and of real traffic differ."""
        return 200 <= self.status < 300


def api_error(reply: Reply, call: str) -> ApiError:
    """The error that an unsuccessful reply means."""
    told = (reply.status, reply.code, reply.detail, reply.retry_after_s)
    if reply.status == 422:
        return InvalidRequest(*told, call=call, problems=reply.problems)
    limit = _DURATION.search(reply.detail) if reply.status == 400 else None
    if limit:
        return DurationOverPlan(*told, call=call, maximum_s=int(limit.group(1)))
    return _kind(reply)(*told, call=call)


def _kind(reply: Reply) -> type[ApiError]:
    text = reply.detail.lower()
    match reply.status:
        case 400 if "sandbox" in text and "avatar" in text:
            return SandboxAvatar
        case 402:
            return NoCredits
        case 403 if "concurren" in text:
            return ConcurrencyLimit
        case 403 if "credit" in text:  # its code is not known, so only the words can tell
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


def _words_in(body: Mapping[str, Any]) -> str:
    """The envelope's message; else ``data[0].message``, or FastAPI's ``detail``."""
    listed = body.get("data")
    first = listed[0] if isinstance(listed, list) and listed else None
    words = [
        body.get("message"),
        first.get("message") if isinstance(first, dict) else None,
        body.get("detail"),
    ]
    texts = [text for text in words if isinstance(text, str) and text]
    return "; ".join(dict.fromkeys(texts))


def _words_outside_json(response: httpx.Response) -> str:
    """A gateway's page is not worth quoting; a line of plain text may be."""
    if response.headers.get("content-type", "").startswith("text/plain"):
        return response.text
    return response.reason_phrase


def _strike(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET_CHARS:
            text = text.replace(secret, "**********")
    return text


def _retry_after_s(response: httpx.Response, now: datetime) -> float | None:
    """``Retry-After`` as seconds or HTTP date; LiveAvatar's window's rest where a 429 lacks it.

    Every limited reply tells the window's rest, also one that a later try cannot mend.
    """
    told = response.headers.get("retry-after", "")
    if not told and response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        told = response.headers.get("x-ratelimit-reset", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            moment = parsedate_to_datetime(told)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None
