"""Invitations: one code opens one page in one browser, until it expires."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from viewer.invitations import (
    Invitation,
    InvitationExpired,
    Invitations,
    InvitationState,
    InvitationUsed,
    UnknownInvitation,
)


class ManualClock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def invitations(clock: ManualClock) -> Invitations:
    return Invitations(invitation_ttl_s=600, pass_ttl_s=3600, clock=clock)


def test_a_code_opens_its_page_once(invitations: Invitations) -> None:
    page, code = invitations.invite("support-42")

    invitation, viewer_pass = invitations.redeem(page, SecretStr(code))

    assert invitation.session_key == "support-42"
    assert invitations.show_pass(page, viewer_pass.get_secret_value()) is invitation
    with pytest.raises(InvitationUsed, match="already been used"):
        invitations.redeem(page, SecretStr(code))


def test_an_expired_code_opens_nothing(invitations: Invitations, clock: ManualClock) -> None:
    page, code = invitations.invite("support-42")

    clock.now_s += 600

    for _ in range(2):
        with pytest.raises(InvitationExpired, match="expired"):
            invitations.redeem(page, SecretStr(code))


def test_a_wrong_code_does_not_use_up_the_invitation(invitations: Invitations) -> None:
    page, code = invitations.invite("support-42")

    with pytest.raises(UnknownInvitation):
        invitations.redeem(page, SecretStr(code[:-1]))

    assert invitations.redeem(page, SecretStr(code))[0].state is InvitationState.USED


def test_a_pass_opens_its_own_page_only(invitations: Invitations) -> None:
    mine, my_code = invitations.invite("support-42")
    other, other_code = invitations.invite("support-43")
    my_pass = invitations.redeem(mine, SecretStr(my_code))[1].get_secret_value()
    invitations.redeem(other, SecretStr(other_code))

    assert invitations.is_pass(mine, my_pass)
    assert not invitations.is_pass(other, my_pass)
    with pytest.raises(UnknownInvitation):
        invitations.show_pass(other, my_pass)
    with pytest.raises(UnknownInvitation):
        invitations.show_pass("no-such-page", my_pass)


def test_a_code_is_not_a_pass(invitations: Invitations) -> None:
    page, code = invitations.invite("support-42")

    assert not invitations.is_pass(page, code)


def test_a_pass_expires(invitations: Invitations, clock: ManualClock) -> None:
    page, code = invitations.invite("support-42")
    viewer_pass = invitations.redeem(page, SecretStr(code))[1].get_secret_value()

    clock.now_s += 3600

    assert not invitations.is_pass(page, viewer_pass)
    with pytest.raises(InvitationExpired):
        invitations.show_pass(page, viewer_pass)


def test_only_digests_of_code_and_pass_are_kept(invitations: Invitations) -> None:
    page, code = invitations.invite("support-42")
    invitation, viewer_pass = invitations.redeem(page, SecretStr(code))

    kept = repr(vars(invitations)) + repr(invitation)

    assert code not in kept
    assert viewer_pass.get_secret_value() not in kept
    assert viewer_pass.get_secret_value() not in repr(viewer_pass)


def test_a_used_invitation_cannot_be_opened_again() -> None:
    invitation = Invitation("page", "support-42", b"", 0.0, InvitationState.USED)

    with pytest.raises(RuntimeError, match="from used to open"):
        invitation.become(InvitationState.OPEN)
