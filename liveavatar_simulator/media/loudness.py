"""From sound to the opening of a mouth. Arithmetic only."""

from __future__ import annotations

from typing import Final

import numpy as np

QUIET_DB: Final = -45.0
"""The mouth is closed at and below this level (dB of full scale, root mean square)."""
LOUD_DB: Final = -12.0
"""The mouth is wide open at and above this level: loud speech."""


def mouth_openness(pcm: bytes) -> float:
    """How far a mouth opens that makes this sound: 0 closed, 1 wide.

    Args:
        pcm: 16-bit little-endian mono samples; none is silence.
    """
    samples = np.frombuffer(pcm, dtype="<i2")
    if not len(samples):
        return 0.0
    level = float(np.sqrt(np.mean(np.square(samples.astype(np.float32))))) / 32768
    if level <= 0:
        return 0.0
    level_db = 20 * np.log10(level)
    return float(np.clip((level_db - QUIET_DB) / (LOUD_DB - QUIET_DB), 0.0, 1.0))
