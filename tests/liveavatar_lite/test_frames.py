"""Frames of this package, parsed by websockets in a server's role."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from liveavatar_lite._frames import masked_text


def read(octets: bytes) -> Frame:
    """Parse the frame as a server does."""
    reader = StreamReader()
    reader.feed_data(octets)
    reader.feed_eof()
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    frame = done.value.value
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 64_061, 999_999])
def test_a_server_reads_what_was_written_at_every_width_of_the_length(size: int) -> None:
    payload = bytes(number % 94 + 33 for number in range(size))

    frame = read(masked_text(payload))

    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.TEXT, payload, True)
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)


def test_each_frame_has_a_fresh_mask() -> None:
    """RFC 6455, 5.3: unpredictable. Servers would accept a constant one, too."""
    keys = {masked_text(b"{}")[2:6] for _ in range(100)}

    assert len(keys) == 100
