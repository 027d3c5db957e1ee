"""Chunks and pacing: invariants that hold however the audio arrives."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar_lite import BYTES_PER_S, Chunker, Pacer, duration_s

SEEDS = range(20)
FIRST_BYTES = 19_200
CHUNK_BYTES = 48_000


def random_pcm(rng: np.random.Generator, pcm_bytes: int) -> bytes:
    return rng.integers(0, 256, pcm_bytes, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_add_up_to_the_audio_whatever_the_pieces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = random_pcm(rng, 2 * int(rng.integers(0, 200_000)))
    chunker, chunks, position = Chunker(), list[bytes](), 0

    while position < len(pcm):
        size = int(rng.integers(1, 30_000))
        chunks += chunker.push(pcm[position : position + size])
        position += size
        if rng.random() < 0.1:
            chunks += chunker.flush()
    chunks += chunker.flush()

    assert b"".join(chunks) == pcm
    assert chunker.pending_bytes == 0
    assert all(0 < len(chunk) <= CHUNK_BYTES and len(chunk) % 2 == 0 for chunk in chunks)


def test_the_first_chunk_is_short_and_the_others_are_a_second() -> None:
    chunker = Chunker()

    chunks = [*chunker.push(bytes(150_000)), *chunker.flush()]

    assert [len(chunk) for chunk in chunks] == [
        FIRST_BYTES,
        CHUNK_BYTES,
        CHUNK_BYTES,
        150_000 - FIRST_BYTES - 2 * CHUNK_BYTES,
    ]


def test_half_a_sample_waits_for_its_other_half() -> None:
    chunker = Chunker()

    chunker.push(b"\x01\x02\x03")

    assert chunker.flush() == [b"\x01\x02"]
    assert chunker.flush() == []
    assert chunker.pending_bytes == 1
    assert chunker.flush_due_s() is None
    chunker.push(b"\x04")
    assert chunker.flush() == [b"\x03\x04"]


def test_a_flush_is_due_after_a_pause_of_the_producer() -> None:
    chunker = Chunker()
    assert chunker.flush_due_s() is None

    chunker.push(bytes(100), now_s=10.0)

    assert chunker.flush_due_s() == pytest.approx(10.2)
    chunker.flush()
    assert chunker.flush_due_s() is None


def test_a_real_time_producer_never_starves_the_avatar() -> None:
    """Live speech in pieces of 20 ms fills a one-second chunk only after a second.

    The first 400 ms start to play 200 ms after they were sent, so the next audio must arrive 400 ms
    later: waiting for a full chunk would leave the avatar silent for half a second.
    """
    chunker, sent = Chunker(), list[tuple[float, int]]()
    piece_s, pieces = 0.02, 250

    for number in range(1, pieces + 1):
        now_s = number * piece_s
        for chunk in chunker.push(bytes(round(piece_s * BYTES_PER_S)), now_s):
            sent.append((now_s, len(chunk)))
        due_s = chunker.flush_due_s()
        if due_s is not None and due_s <= now_s + 1e-9:
            sent += [(now_s, len(chunk)) for chunk in chunker.flush()]

    plays_from_s, covered_s = sent[0][0] + 0.2, 0.0
    for at_s, chunk_bytes in sent:
        assert at_s <= plays_from_s + covered_s
        covered_s += duration_s(chunk_bytes)
    assert min(chunk_bytes for _, chunk_bytes in sent) >= FIRST_BYTES * 0.9


def test_a_chunker_refuses_inconsistent_lengths() -> None:
    with pytest.raises(ValueError, match="first_chunk_s=2"):
        Chunker(first_chunk_s=2.0, chunk_s=1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_sending_never_exceeds_the_maximum_lead(seed: int) -> None:
    rng = np.random.default_rng(seed)
    max_lead_s = float(rng.uniform(1.0, 4.0))
    pacer, now_s = Pacer(max_lead_s=max_lead_s), float(rng.uniform(0, 1e6))
    latency_s = float(rng.uniform(0.0, 0.5))
    total_s = 0.0

    for number in range(60):
        chunk_bytes = 2 * int(rng.integers(1, CHUNK_BYTES // 2))
        for _ in range(10):
            wait_s = pacer.wait_s(now_s, chunk_bytes)
            if wait_s == 0:
                break
            now_s += wait_s
        assert pacer.wait_s(now_s, chunk_bytes) == 0, "a wait must end"
        pacer.sent(chunk_bytes)
        total_s += duration_s(chunk_bytes)
        if number == 0:
            pacer.start(now_s + latency_s)
        assert pacer.lead_s(now_s) <= max_lead_s + 1e-5
        assert 0 <= pacer.heard_s(now_s) <= pacer.sent_s == pytest.approx(total_s)
        now_s += float(rng.exponential(0.2))


def test_heard_never_exceeds_sent() -> None:
    pacer = Pacer()
    pacer.sent(BYTES_PER_S)
    assert pacer.heard_s(5.0) == 0.0

    pacer.start(10.0)

    assert pacer.heard_s(9.0) == 0.0
    assert pacer.heard_s(10.25) == pytest.approx(0.25)
    assert pacer.heard_s(99.0) == 1.0


def test_the_reported_start_corrects_the_estimated_one() -> None:
    pacer = Pacer()
    pacer.sent(BYTES_PER_S)

    pacer.start(10.2)
    pacer.start(10.7)

    assert pacer.heard_s(11.0) == pytest.approx(0.3)


def test_the_estimate_pauses_while_nothing_is_left() -> None:
    pacer = Pacer()
    pacer.sent(BYTES_PER_S)
    pacer.start(10.0)

    pacer.sent(BYTES_PER_S, now_s=15.0)  # dry from 11 to 15

    assert pacer.heard_s(15.5) == pytest.approx(1.5)


def test_a_chunk_longer_than_the_lead_waits_for_everything_before_it() -> None:
    pacer = Pacer(max_lead_s=0.5)
    assert pacer.wait_s(10.0, BYTES_PER_S) == 0.0

    pacer.sent(BYTES_PER_S)
    pacer.start(10.0)

    assert pacer.wait_s(10.25, BYTES_PER_S) == pytest.approx(0.75)
    assert pacer.wait_s(11.0, BYTES_PER_S) == 0.0


def test_a_wait_before_playback_includes_the_time_until_it_begins() -> None:
    pacer = Pacer(max_lead_s=1.0)
    pacer.sent(BYTES_PER_S)

    pacer.start(10.2)

    assert pacer.wait_s(10.0, BYTES_PER_S // 2) == pytest.approx(0.7)


def test_a_pacer_refuses_a_lead_of_zero() -> None:
    with pytest.raises(ValueError, match="max_lead_s"):
        Pacer(max_lead_s=0.0)
