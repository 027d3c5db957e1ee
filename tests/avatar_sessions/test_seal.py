"""Encryption of secrets that cross Temporal."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from avatar_sessions import Seal, SealError


def test_a_sealed_value_does_not_contain_the_secret_and_opens_to_it() -> None:
    seal = Seal([Seal.new_key()])

    sealed = seal.seal("obviously-fake-token")

    assert sealed.startswith("gAAAA")
    assert "fake" not in sealed
    assert seal.open(sealed).get_secret_value() == "obviously-fake-token"


def test_keys_can_be_rotated_without_losing_what_older_ones_sealed() -> None:
    old, new = Seal.new_key(), Seal.new_key()
    sealed_before = Seal([old]).seal("before")
    rotated = Seal([new, old])

    assert rotated.open(sealed_before).get_secret_value() == "before"
    assert Seal([new]).open(rotated.seal("after")).get_secret_value() == "after"


def test_another_key_is_an_error_that_names_the_variable() -> None:
    sealed = Seal([Seal.new_key()]).seal("obviously-fake-token")

    with pytest.raises(SealError, match="AVATAR_SESSIONS_SEAL_KEYS"):
        Seal([Seal.new_key()]).open(sealed)


@pytest.mark.parametrize("keys", [[], [SecretStr("no-key")], [Seal.new_key(), SecretStr("no-key")]])
def test_unusable_keys_are_named_and_not_quoted(keys: list[SecretStr]) -> None:
    with pytest.raises(SealError, match="AVATAR_SESSIONS_SEAL_KEYS") as error:
        Seal(keys)

    assert "no-key" not in str(error.value)
    assert error.value.__cause__ is None
