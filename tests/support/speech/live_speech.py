"""Live speech to a fake ingress, and noise to send through it."""

from __future__ import annotations

from typing import Final

import numpy as np

from avatar_sessions import LiveSpeech
from tests.support.speech.fake_ingress import FakeIngress, FakeOwners

SECOND: Final = 48_000
"""Bytes of a second of PCM."""


def speech(seconds: float, seed: int = 1) -> bytes:
    """Noise: every misplaced sample shows."""
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, int(seconds * 24_000))
    return samples.astype("<i2").tobytes()


def live_to(ingress: FakeIngress | FakeOwners, **options: object) -> LiveSpeech:
    """Live speech to one owner, or to those that a fake names."""
    owners = ingress if isinstance(ingress, FakeOwners) else FakeOwners(ingress)
    return LiveSpeech(owners, session_key="k", **options)  # type: ignore[arg-type]
