"""The package's exported names: adding or removing one is a decision, not an accident."""

from __future__ import annotations

import viewer


def test_the_exported_names_are_these() -> None:
    assert viewer.__all__ == [
        "SessionViewerSource",
        "ViewerAccess",
        "ViewerError",
        "ViewerPortInUse",
        "ViewerServer",
        "ViewerSource",
        "ViewerSourceError",
        "ViewerSpeaker",
        "ViewerStatus",
    ]


def test_every_exported_name_exists() -> None:
    for name in viewer.__all__:
        assert getattr(viewer, name) is not None
