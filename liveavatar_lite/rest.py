"""LiveAvatar's REST API, as far as LITE mode needs it, over httpx.

One method per route, one request per call. Nothing is retried here, because only the caller knows
whether a retry may bill twice. Errors are those of `errors`, and hold no secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from ._error_replies import Reply, api_error
from .errors import (
    LiteError,
    NotFound,
    OutcomeUnknown,
    ServiceUnreachable,
    UnexpectedResponse,
)
from .models import (
    MintedToken,
    SessionEndReason,
    SessionEntry,
    SessionPage,
    StartedSession,
    StopOutcome,
    TokenRequest,
)

DEFAULT_BASE_URL: Final = "https://api.liveavatar.com"
MAX_PAGES: Final = 1_000
"""Where `LiveAvatar.iter_sessions` stops, should the service never return a last page."""

_Model = TypeVar("_Model", bound=BaseModel)
_Kind = Literal["active", "historic"]
# Raised before a byte of the request was sent. After any other error of httpx, the request may have
# reached the service.
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class LiveAvatar:
    """A client of LiveAvatar's sessions API.

    Use it as an async context manager, or call `aclose`. Every call is bounded by
    ``call_timeout_s`` as a whole, and raises errors of the `LiteError` tree.

    Args:
        api_key: a LiveAvatar key; HeyGen's do not work. It is sent only as header ``X-API-KEY``.
        base_url: another address, for a simulator or a staging environment.
        connect_timeout_s: limit for opening a connection, or getting a free one.
        reply_timeout_s: limit for the service to send something.
        call_timeout_s: limit for a whole call.
        transport: httpx's transport, for tests and special networks.

    Raises:
        ValueError: the key is empty or cannot stand in a header, or the address is not http(s).
    """

    def __init__(
        self,
        api_key: SecretStr,
        *,
        base_url: str = DEFAULT_BASE_URL,
        connect_timeout_s: float = 5.0,
        reply_timeout_s: float = 30.0,
        call_timeout_s: float = 45.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_key = _fit_for_header(api_key, "the API key")
        self._base_url = _http_address(base_url)
        self._call_timeout_s = call_timeout_s
        self._http = httpx.AsyncClient(
            base_url=self._base_url,
            timeout=httpx.Timeout(
                reply_timeout_s, connect=connect_timeout_s, pool=connect_timeout_s
            ),
            transport=transport,
            headers={"accept": "application/json"},
        )

    def __repr__(self) -> str:
        return f"LiveAvatar(base_url={str(self._base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Safe to repeat; calls afterwards are errors."""
        await self._http.aclose()

    # --- sessions -------------------------------------------------------------------------

    async def create_token(self, request: TokenRequest) -> MintedToken:
        """Mint a session: it gets an id and a token, is not started and not billed.

        Raises:
            DurationOverPlan, SandboxAvatar, BadRequest, InvalidRequest: the request can never work.
            Unauthorized: the API key is wrong.
        """
        body = request.model_dump(mode="json", exclude_none=True)
        secrets = []
        if request.livekit_config is not None:  # model_dump masks it, and the service needs it
            token = request.livekit_config.livekit_client_token.get_secret_value()
            body["livekit_config"]["livekit_client_token"] = token
            secrets.append(token)
        reply = await self._call("POST", "/v1/sessions/token", body=body, secrets=secrets)
        return _parse(MintedToken, reply, "POST /v1/sessions/token")

    async def start_session(self, session_token: SecretStr) -> StartedSession:
        """Start a minted session. Billing begins here.

        If an error has `maybe_billed`, stop the session by its id before starting another: the
        reply was lost or invalid, and the session may be running.

        Raises:
            ConcurrencyLimit, NoCredits: the account does not allow it now.
            OutcomeUnknown, ServerError, UnexpectedResponse: the session may be billed.
        """
        call = "POST /v1/sessions/start"
        try:
            reply = await self._call("POST", "/v1/sessions/start", bearer=session_token)
            return _parse(StartedSession, reply, call)
        except LiteError as error:
            error.mark_as_start()
            raise

    async def stop_session(
        self, session_id: str, reason: SessionEndReason = SessionEndReason.USER_CLOSED
    ) -> StopOutcome:
        """Stop a session by its id. Safe to repeat; an unknown session counts as stopped."""
        body = {"session_id": session_id, "reason": str(reason)}
        try:
            await self._call("POST", "/v1/sessions/stop", body=body)
        except NotFound:
            return StopOutcome.ALREADY_GONE
        return StopOutcome.STOPPED

    async def keep_alive(self, session_id: str) -> None:
        """Extend the idle window of five minutes, as ``session.keep_alive`` on the socket does.

        Raises:
            NotFound: the session is not running.
        """
        await self._call("POST", "/v1/sessions/keep-alive", body={"session_id": session_id})

    async def list_sessions(
        self, kind: _Kind = "active", page: int = 1, page_size: int = 100
    ) -> SessionPage:
        """One page of the key's sessions. Pages count from 1 and hold at most 100."""
        parameters = {"type": kind, "page": page, "page_size": page_size}
        reply = await self._call("GET", "/v1/sessions", parameters=parameters)
        return _parse(SessionPage, reply, "GET /v1/sessions")

    async def iter_sessions(self, kind: _Kind = "active") -> AsyncIterator[SessionEntry]:
        """All sessions, page by page. Those that start or end meanwhile may be included or not."""
        seen: set[str] = set()  # a new session moves entries to the next page
        for page in range(1, MAX_PAGES + 1):
            sessions = await self.list_sessions(kind, page=page)
            for entry in sessions.results:
                if entry.id not in seen:
                    seen.add(entry.id)
                    yield entry
            if sessions.next is None or not sessions.results:
                return

    async def get_session(self, session_id: str) -> SessionEntry | None:
        """The session's entry, running or ended; None if the service does not know it."""
        path = f"/v1/sessions/{quote(session_id, safe='')}"
        try:
            reply = await self._call("GET", path)
        except NotFound:
            return None
        return None if reply.data is None else _parse(SessionEntry, reply, f"GET {path}")

    async def credits_left(self) -> Decimal:
        """The account's balance. Also the cheapest check of an API key."""
        call = "GET /v1/users/credits"
        reply = await self._call("GET", "/v1/users/credits")
        value = reply.data.get("credits_left") if isinstance(reply.data, dict) else None
        try:
            balance = Decimal(str(value))
        except InvalidOperation:
            balance = Decimal("nan")
        if not balance.is_finite():
            raise UnexpectedResponse(
                reply.status, reply.code, "the reply has no credits_left", call=call
            )
        return balance

    # --- one request ----------------------------------------------------------------------

    async def _call(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str | int] | None = None,
        bearer: SecretStr | None = None,
        secrets: list[str] | None = None,
    ) -> Reply:
        """Send one request and read its reply; raises for anything but 2xx."""
        call = f"{method} {path}"
        key = self._api_key.get_secret_value()
        secret_texts = [key, *(secrets or ())]
        headers = {"X-API-KEY": key}
        if bearer is not None:
            token = _fit_for_header(bearer, "the session token").get_secret_value()
            secret_texts.append(token)
            headers = {"Authorization": f"Bearer {token}"}
        request = self._http.build_request(
            method, path, json=body, params=parameters, headers=headers
        )
        response = await self._send(request, call)
        reply = Reply.read(response, secret_texts, datetime.now(UTC))
        if not reply.succeeded:
            raise api_error(reply, call)
        return reply

    async def _send(self, request: httpx.Request, call: str) -> httpx.Response:
        """Send a request, and map httpx's errors to this package's."""
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await self._http.send(request)
        except _NEVER_SENT as error:
            raise ServiceUnreachable(
                f"{call} was not sent: LiveAvatar at {self._base_url} cannot be reached "
                f"({_name(error)}). Check LIVEAVATAR_API_URL and the network"
            ) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(
                f"{call} was sent to {self._base_url}, but no reply came ({_name(error)})"
            ) from error


def _name(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _parse(model: type[_Model], reply: Reply, call: str) -> _Model:
    """The reply's data as a model. The error names what is wrong, without the values."""
    try:
        return model.model_validate(reply.data)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'data'}: {each['msg']}"
            for each in error.errors(include_input=False, include_context=False)
        )
    raise UnexpectedResponse(reply.status, reply.code, wrong, call=call)


def _fit_for_header(secret: SecretStr, name: str) -> SecretStr:
    """Refuse an illegal header value here: h11 would refuse it later, and quote it."""
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError(
            f"{name} is empty, begins or ends with a blank, or has characters illegal in a header"
        )
    return secret


def _http_address(base_url: str) -> httpx.URL:
    problem = "is not an address"
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.userinfo:
        problem, base_url = "must not carry credentials", "LiveAvatar's address"
    elif url.scheme in {"http", "https"} and url.host:
        return url
    raise ValueError(f"{base_url} {problem}: give something like {DEFAULT_BASE_URL}")
