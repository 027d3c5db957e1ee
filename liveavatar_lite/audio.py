"""LITE's audio as arithmetic: sizes, chunks and pace. Pure: every time is an argument, in seconds.

Converts nothing and plays nothing. Audio is PCM, signed 16-bit little-endian, mono, 24 kHz.
"""

from __future__ import annotations

from typing import Final

SAMPLE_RATE_HZ: Final = 24_000
SAMPLE_BYTES: Final = 2
BYTES_PER_S: Final = SAMPLE_RATE_HZ * SAMPLE_BYTES
FIRST_CHUNK_S: Final = 0.4
"""Small, so that speech begins early: what LiveAvatar's own clients send first."""
CHUNK_S: Final = 1.0
"""What LiveAvatar recommends. Much smaller chunks were heard as noise."""
IDLE_FLUSH_S: Final = 0.2
"""A rest is sent after so long without more, or the avatar starves on what we hold back."""
MAX_LEAD_S: Final = 2.0
"""How far sending may run ahead of playback: what an interrupt loses at most."""


def duration_s(pcm_bytes: int) -> float:
    """How long that many bytes of PCM play."""
    return pcm_bytes / BYTES_PER_S
