"""The loudness of audio, as how far a mouth opens. Arithmetic only."""

from __future__ import annotations

from typing import Final

import numpy as np

CLOSED_DB: Final = -45.0
"""The mouth is closed at and below this level (dB of full scale, root mean square)."""
OPEN_DB: Final = -12.0
"""The mouth is wide open at and above this level: loud speech."""


def mouth_openness(pcm: bytes) -> float:
    """How far the mouth opens for this audio: 0 closed, 1 wide open.

    Args:
        pcm: 16-bit little-endian mono samples; empty is silence.
    """
    samples = np.frombuffer(pcm, dtype="<i2")
    if not len(samples):
        return 0.0
    level = float(np.sqrt(np.mean(np.square(samples.astype(np.float32))))) / 32768
    if level <= 0:
        return 0.0
    level_db = 20 * np.log10(level)
    return float(np.clip((level_db - CLOSED_DB) / (OPEN_DB - CLOSED_DB), 0.0, 1.0))
