"""docs/audio.md tells what the code does: its program runs, its tables are the code's."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from typing import Any

from avatar_sessions import Session, UtteranceReport
from avatar_sessions.contract import live_dialect
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.settings import ROOT
from tests.support.platform import Platform
from workers.settings import WorkerSettings

DOC = (ROOT / "docs" / "audio.md").read_text(encoding="utf-8")


async def tts() -> AsyncIterator[bytes]:
    for _ in range(5):
        yield bytes(4_800)


async def run(session: Session, program: str) -> UtteranceReport:
    """Run a program of the page, as the body of a coroutine."""
    source = (
        f"async def body(session, tts):\n{textwrap.indent(program, '    ')}\n    return heard\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(source, "docs/audio.md", "exec"), scope)  # noqa: S102 - our own page
    heard: UtteranceReport = await scope["body"](session, tts())
    return heard


async def test_the_pages_program_speaks(platform: Platform) -> None:
    (program,) = re.findall(r"<!-- client -->\n```python\n(.*?)```", DOC, re.S)
    session = await platform.start()
    heard = await run(session, program)
    assert (heard.outcome, heard.heard_ms) == (UtteranceOutcome.COMPLETED, 500)
    await session.end()


MESSAGES = {**live_dialect.SPEAKER_MESSAGES, **live_dialect.OWNER_MESSAGES}


def test_every_message_of_the_live_dialect_is_told_with_its_fields() -> None:
    told = {
        name: set(re.findall(r"`(\w+)`", fields))
        for name, fields in re.findall(r"^\| `(live\.\w+)` \| [^|]+ \| ([^|]+) \|", DOC, re.M)
    }
    for name, model in MESSAGES.items():
        assert model.model_fields["type"].default == name
        assert set(model.model_fields) - {"type"} <= told.pop(name), name
    assert not told


def test_every_close_code_is_told() -> None:
    assert [code for code in live_dialect.CloseCode if str(code.value) not in DOC] == [
        live_dialect.CloseCode.UNREAD  # such a client is not told anything any more
    ]


def test_every_setting_of_the_ingress_is_told_with_its_default() -> None:
    table = re.findall(r"^\| (`AVATAR_SESSIONS_[^|]+) \| ([^|]+) \|", DOC, re.M)
    told = {name: default for names, default in table for name in re.findall(r"`(\w+)`", names)}
    fields = {str(field.alias): field for field in WorkerSettings.model_fields.values()}
    for name in fields:
        if "_INGRESS_" in name and not name.endswith("_PRIVATE_KEY"):
            assert name in told, name
    for name, default in told.items():
        if default.startswith("`") and name in fields:
            assert str(fields[name].default).lower().removesuffix(".0") == (
                default.strip("`").lower().removesuffix(".0")
            ), name
