"""docs/reference/live-protocol.md has every message and close code of the live dialect."""

from __future__ import annotations

import re

from avatar_sessions.contract import live_dialect
from deploy.local.settings import ROOT

PAGE = (ROOT / "docs" / "reference" / "live-protocol.md").read_text(encoding="utf-8")


def test_every_message_of_the_live_dialect_has_its_fields() -> None:
    shown = {
        name: set(re.findall(r"`(\w+)`", fields))
        for name, fields in re.findall(r"^\| `(live\.\w+)` \| [^|]+ \| ([^|]+) \|", PAGE, re.M)
    }
    for model in (live_dialect.LiveBegin, *live_dialect.OwnerMessage.__args__):
        name = model.model_fields["type"].default
        assert set(model.model_fields) - {"type"} <= shown.pop(name), name
    assert not shown


def test_every_close_code_is_explained() -> None:
    assert [code for code in live_dialect.CloseCode if str(code.value) not in PAGE] == [
        live_dialect.CloseCode.UNREAD  # a client that does not read gets no close frame
    ]
