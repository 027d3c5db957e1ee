"""A web page that shows an avatar session, and the server that hands it out on loopback.

A program embeds `ViewerServer` with a `SessionViewerSource`; `viewer.typed_speech` adds a demo
voice for typed text. Not meant for the internet: there, serve your own page behind your own login.
"""

from .errors import ViewerError, ViewerPortInUse
from .server import ViewerServer
from .session_source import SessionViewerSource
from .source import (
    ViewerAccess,
    ViewerSource,
    ViewerSourceError,
    ViewerSpeaker,
    ViewerStatus,
)

__all__ = [
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
