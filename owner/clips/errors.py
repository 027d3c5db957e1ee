"""Why a clip cannot be spoken: the types that a ledger line names.

ClipError
├── ClipMissing        there is nothing at that place
├── ClipForbidden      the place is not one that clips may come from
├── ClipUnreachable    the place did not answer, or with an error, or not to the end
├── ClipTooLong        more than ten minutes of speech, or more bytes than those can have
└── ClipNotAudio       what is there is not audio that can be decoded, or not to its end
"""

from __future__ import annotations


class ClipError(Exception):
    """A clip cannot be spoken; ``type`` names why."""

    type = "ClipUnusable"


class ClipMissing(ClipError):
    """There is nothing at that place."""

    type = "ClipMissing"


class ClipForbidden(ClipError):
    """The place is not one that clips may come from."""

    type = "ClipForbidden"


class ClipUnreachable(ClipError):
    """The place did not answer, or with an error, or not to the end."""

    type = "ClipUnreachable"


class ClipTooLong(ClipError):
    """More than ten minutes of speech, or more bytes than those can have."""

    type = "ClipTooLong"


class ClipNotAudio(ClipError):
    """What is there is not audio that can be decoded, or not to its end."""

    type = "ClipNotAudio"
