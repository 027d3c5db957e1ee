"""Secrets that cross Temporal are sealed with Fernet: a leaked history opens nothing.

Fernet (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec) because every language
has it. Several keys may be given, newest first: the first seals, all open, so keys can be
rotated without ending sessions.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr


class SealError(Exception):
    """A sealed value cannot be opened, or the keys are unusable."""


class Seal:
    """Seals and opens secrets."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        """Take url-safe base64 keys of 32 bytes each, newest first.

        Raises:
            SealError: there is no key, or one has another shape.
        """
        try:
            self._fernet = MultiFernet([Fernet(key.get_secret_value()) for key in keys])
        except ValueError:
            # Chained from nothing: the library's message may quote the key.
            raise SealError(
                "AVATAR_SESSIONS_SEAL_KEYS holds no usable key: give url-safe base64 keys of 32"
                " bytes, comma-separated, newest first; make one with"
                " `avatar-sessions new-seal-key`"
            ) from None

    @staticmethod
    def new_key() -> SecretStr:
        """A fresh random key."""
        return SecretStr(Fernet.generate_key().decode())

    def seal(self, secret: SecretStr | str) -> str:
        """Seal a secret into text that is safe in histories and logs."""
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        return self._fernet.encrypt(plain.encode()).decode()

    def open(self, sealed: str) -> SecretStr:
        """Open what :meth:`seal` made.

        Raises:
            SealError: no key fits.
        """
        try:
            return SecretStr(self._fernet.decrypt(sealed.encode()).decode())
        except InvalidToken:
            raise SealError(
                "a sealed value does not open with any of AVATAR_SESSIONS_SEAL_KEYS: the worker"
                " that sealed it has another key"
            ) from None
