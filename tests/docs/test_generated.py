"""The generated reference pages match the code."""

from __future__ import annotations

from docs.generate import out_of_date


def test_generated_pages_are_up_to_date() -> None:
    assert out_of_date() == []
