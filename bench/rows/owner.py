"""The owner under load: CPU, memory, pacing and event loop lag with many speaking sessions.

Also the latency that speakers see: from the first byte and from an in-band interrupt to the wire,
idle and with 200 sessions speaking; and the silence after a speaker's connection is cut.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from bench.lab import Lab
from bench.load import FRAME, LoadSpeaker, SpeakingLoad, load_lab, talk
from bench.table import FigureRow, single, spread
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.relay import TcpRelay

NAME: Final = "owner"
COUNTS: Final = (50, 200, 400)
LOADED: Final = 200
WARM_UP_S: Final = 6.0
"""Until the initial bursts are over and every lead is steady."""
MEASURED_S: Final = 20.0
SOAK_S: Final = 60.0
PROBES: Final = 200
PROBE_EVERY_S: Final = 0.05
LEAD_S: Final = 2.0
CUT_EVERY_S: Final = 1.5
UTTERANCE_S: Final = 20


async def measure(lab: Lab) -> list[FigureRow]:
    """Measure each number of sessions in a new owner process."""
    rows: list[FigureRow] = []
    with tempfile.TemporaryDirectory() as folder:
        async with load_lab(Path(folder)) as load:
            cpu_ms: dict[int, float] = {}
            for count in COUNTS[:2] if lab.quick else COUNTS:
                rows += await _loaded(load, count, cpu_ms, quick=lab.quick)
            rows += _cheaper(cpu_ms)
            rows += await _unloaded(load, quick=lab.quick)
            rows.append(await _cut(load))
    return rows


async def _loaded(
    load: SpeakingLoad, count: int, cpu_ms: dict[int, float], *, quick: bool
) -> list[FigureRow]:
    seconds = SOAK_S if count == LOADED and not quick else MEASURED_S
    async with load.owner() as owner:
        idle = await owner.stats(memory=True)
        async with load.speakers(count) as speakers:
            live = await owner.stats(memory=True)
            talking = asyncio.create_task(talk(speakers, WARM_UP_S + seconds), name="talk")
            await asyncio.sleep(WARM_UP_S)
            before, began_s = await owner.stats(), time.perf_counter()
            probes: list[FigureRow] = []
            if count == LOADED:
                probes = await _interrupts(
                    load, speakers[0], f"interrupt in band to the wire, {count} speaking", 10.0
                )
            await asyncio.sleep(max(0.0, began_s + seconds - time.perf_counter()))
            after, lasted_s = await owner.stats(), time.perf_counter() - began_s
            await talking
    cpu_ms[count] = (after["cpu_s"] - before["cpu_s"]) / lasted_s / count * 1000
    rows = [
        single(
            NAME,
            f"CPU a session-second, {count} speaking",
            cpu_ms[count],
            "ms",
            n=round(count * lasted_s),
            at_most=1.0 if count == LOADED else None,
        )
    ]
    if count == LOADED:
        kib = (live["rss_kib"] - idle["rss_kib"]) / count
        rows.append(single(NAME, "memory of a live session", kib, "KiB", n=count, at_most=300))
        rows += _steadiness(after, count)
    return rows + probes


def _steadiness(figures: dict[str, Any], count: int) -> list[FigureRow]:
    errors_ms = [abs(lead_s - LEAD_S) * 1000 for lead_s in figures["leads_s"]]
    starved = figures["starvations"]
    what = f"{count} speaking"
    return [
        FigureRow(
            NAME,
            f"starvations, {what}",
            n=len(errors_ms),
            unit="",
            value=starved,
            target="0",
            reached=starved == 0,
        ),
        spread(NAME, f"error of the lead, {what}", errors_ms, "ms", p99_at_most=150),
        spread(NAME, f"event loop lag, {what}", figures["lags_ms"], "ms", p99_at_most=20),
    ]


def _cheaper(cpu_ms: dict[int, float]) -> list[FigureRow]:
    if COUNTS[-1] not in cpu_ms:
        return []
    ratio = cpu_ms[COUNTS[-1]] / cpu_ms[COUNTS[0]]
    what = f"a session-second at {COUNTS[-1]}, in those at {COUNTS[0]}"
    return [single(NAME, what, ratio, "x", n=2, at_most=1.0)]


async def _unloaded(load: SpeakingLoad, *, quick: bool) -> list[FigureRow]:
    async with load.owner(), load.speakers(1) as speakers:
        (speaker,) = speakers
        rows = await _first_bytes(load, speaker, PROBES // 4 if quick else PROBES)
        return rows + await _interrupts(
            load, speaker, "interrupt in band to the wire, idle", 5.0, p50_at_most=1.0
        )


async def _first_bytes(load: SpeakingLoad, speaker: LoadSpeaker, count: int) -> list[FigureRow]:
    """Send half a second of speech in one burst, as a fast TTS does."""
    asked: dict[str, float] = {}
    for _ in range(count):
        utterance_id = f"first-{uuid4().hex[:10]}"
        await speaker.begin(utterance_id)
        asked[utterance_id] = time.time()
        for _ in range(5):
            await speaker.connection.send(FRAME)
        await asyncio.sleep(PROBE_EVERY_S)
        await speaker.interrupt()
        await asyncio.sleep(0.25)  # new speech waits for LiveAvatar's answer to the interrupt
    arrived = await load.arrivals(speaker, "agent.speak")
    waits_ms = [(arrived[name] - at_s) * 1000 for name, at_s in asked.items() if name in arrived]
    what = "first byte to the first chunk on the wire"
    return [spread(NAME, what, waits_ms, "ms", p50_at_most=3.0, p99_at_most=10.0)]


async def _interrupts(
    load: SpeakingLoad,
    speaker: LoadSpeaker,
    what: str,
    p99_at_most: float,
    *,
    p50_at_most: float | None = None,
) -> list[FigureRow]:
    asked: dict[str, float] = {}
    for _ in range(PROBES):
        at_s = time.time()
        asked[await speaker.interrupt()] = at_s
        await asyncio.sleep(PROBE_EVERY_S)
    arrived = await load.arrivals(speaker, "agent.interrupt")
    waits_ms = [(arrived[name] - at_s) * 1000 for name, at_s in asked.items()]
    return [spread(NAME, what, waits_ms, "ms", p50_at_most=p50_at_most, p99_at_most=p99_at_most)]


async def _cut(load: SpeakingLoad) -> FigureRow:
    """Cut a speaker's connection repeatedly; the client reconnects each time."""
    port = free_port()
    async with (
        TcpRelay(LOOPBACK, port).listening() as relay,
        load.owner(
            AVATAR_SESSIONS_INGRESS_PORT=str(port),
            AVATAR_SESSIONS_INGRESS_URL=f"ws://{LOOPBACK}:{relay.port}",
        ),
        load.sessions(1) as (session,),
        session.live() as live,
    ):
        cuts = 0
        async with live.utterance() as speech:
            began_s = time.perf_counter()
            for _ in range(UTTERANCE_S * 10):
                await speech.write(FRAME)
                if time.perf_counter() - began_s > CUT_EVERY_S * (cuts + 1):
                    assert relay.cut(), "there was no connection to cut"
                    cuts += 1
        heard = await speech.result()
    assert cuts, "nothing was cut"
    silence_ms = sum(gap.duration_ms for gap in heard.gaps) + heard.sent_ms - heard.heard_ms
    return FigureRow(
        NAME,
        "silence when a speaker's connection is cut",
        n=cuts,
        unit="ms",
        value=silence_ms,
        target="0",
        reached=silence_ms == 0,
    )
