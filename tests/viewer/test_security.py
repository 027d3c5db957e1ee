"""The page's Content-Security-Policy, and the origin check."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from viewer.security import is_foreign, page_policy


def directives(**settings: str | None) -> dict[str, str]:
    """The policy's directives by name."""
    arguments = {"inline_script": "{}", "cdn_url": None, "livekit_url": None, **settings}
    policy = page_policy(
        inline_script=str(arguments["inline_script"]),
        cdn_url=arguments["cdn_url"],
        livekit_url=arguments["livekit_url"],
    )
    return dict(one.split(" ", 1) for one in policy.split("; "))


def test_everything_is_forbidden_by_default() -> None:
    policy = directives()

    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"


def test_only_the_given_inline_script_and_cdn_may_run() -> None:
    own = directives()["script-src"].split()
    with_cdn = directives(cdn_url="https://cdn.example.org")["script-src"].split()
    other_script = directives(inline_script="{ }")["script-src"].split()

    assert own[0] == "'self'"
    assert own[1].startswith("'sha256-")
    assert with_cdn == [*own, "https://cdn.example.org"]
    assert other_script[1] != own[1]


@pytest.mark.parametrize(
    ("livekit_url", "sources"),
    [
        ("wss://rooms.example.org", "'self' wss://rooms.example.org https://rooms.example.org"),
        ("ws://127.0.0.1:7880", "'self' ws://127.0.0.1:7880 http://127.0.0.1:7880"),
    ],
)
def test_only_the_given_livekit_server_may_be_reached(livekit_url: str, sources: str) -> None:
    assert directives(livekit_url=livekit_url)["connect-src"] == sources


def test_without_a_livekit_server_any_over_tls_and_loopback_may_be_reached() -> None:
    sources = directives()["connect-src"].split()

    assert {"wss:", "https:", "ws://127.0.0.1:*", "http://localhost:*"} <= set(sources)
    assert "ws:" not in sources


@pytest.mark.parametrize(
    ("origin", "foreign"),
    [
        (None, False),
        ("http://127.0.0.1:8080", False),
        ("https://example.org", True),
        ("http://127.0.0.1:8081", True),
        ("null", True),
    ],
)
def test_a_request_is_foreign_if_its_origin_is_another_host(
    origin: str | None, foreign: bool
) -> None:
    headers = [(b"host", b"127.0.0.1:8080")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))

    assert is_foreign(Request({"type": "http", "headers": headers})) == foreign
