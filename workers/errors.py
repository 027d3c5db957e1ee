"""Why a worker process cannot start; each message says what to do.

CannotStart                      Temporal cannot be reached, or the ingress cannot listen
└── SearchAttributesMissing      the namespace lacks search attributes and takes none from here
"""

from __future__ import annotations


class CannotStart(Exception):
    """The worker cannot do its work; the message says what to do."""


class SearchAttributesMissing(CannotStart):
    """The namespace lacks search attributes, and they cannot be added from here."""
