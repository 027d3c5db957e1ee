"""Why a clip cannot be played: the types that an utterance's report names.

ClipError
├── ClipMissing        there is no file or page at the address
├── ClipForbidden      clips may not come from that address or folder
├── ClipUnreachable    the server did not answer, answered with an error, or broke off
├── ClipTooLong        more than ten minutes of speech, or more bytes than ten minutes take
└── ClipNotAudio       the bytes are not audio that can be decoded, or not to the end
"""

from __future__ import annotations


class ClipError(Exception):
    """A clip cannot be played; ``type`` names why."""

    type = "ClipUnusable"


class ClipMissing(ClipError):
    """There is no file or page at the address."""

    type = "ClipMissing"


class ClipForbidden(ClipError):
    """Clips may not come from that address or folder."""

    type = "ClipForbidden"


class ClipUnreachable(ClipError):
    """The server did not answer, answered with an error, or broke off."""

    type = "ClipUnreachable"


class ClipTooLong(ClipError):
    """More than ten minutes of speech, or more bytes than ten minutes take."""

    type = "ClipTooLong"


class ClipNotAudio(ClipError):
    """The bytes are not audio that can be decoded, or not to the end."""

    type = "ClipNotAudio"
