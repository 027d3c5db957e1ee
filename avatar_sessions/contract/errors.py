"""The base of the client's errors, and those for arguments that can never be used.

They stand in the contract because its models and names raise them; the whole tree is in
:mod:`avatar_sessions.errors`. No I/O.
"""

from __future__ import annotations


class AvatarSessionsError(Exception):
    """Base of every error that the client raises on purpose."""


class InvalidArgument(AvatarSessionsError, ValueError):
    """An argument that can never be used: raised before anything is sent.

    It is a `ValueError` as well.
    """


class InvalidSessionKey(InvalidArgument):
    """A session key that is empty, longer than 200 characters, or has other characters."""


class InvalidMessage(InvalidArgument):
    """A request, clip or command whose fields cannot be used. Its text quotes no values.

    Attributes:
        model: the name of the message's class.
        problems: each field that is wrong, and why, as one line.
    """

    def __init__(self, model: str, problems: str) -> None:
        self.model = model
        self.problems = problems
        super().__init__(f"{model}: {problems}")
