"""Encryption of secrets that cross Temporal, so that a leaked workflow history reveals none.

It uses Fernet (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec), which every language
has. The first of several keys encrypts and all of them decrypt, so keys can be rotated without
ending sessions.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr


class SealError(Exception):
    """A sealed value cannot be decrypted, or the keys are unusable."""


class Seal:
    """Encrypts and decrypts secrets."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        """Take url-safe base64 keys of 32 bytes each, newest first.

        Raises:
            SealError: there is no key, or a key has another shape.
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
        """Make a random key."""
        return SecretStr(Fernet.generate_key().decode())

    def seal(self, secret: SecretStr | str) -> str:
        """Encrypt a secret into text that is safe in histories and logs."""
        plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        return self._fernet.encrypt(plain.encode()).decode()

    def open(self, sealed: str) -> SecretStr:
        """Decrypt what :meth:`seal` made.

        Raises:
            SealError: it was encrypted with none of the keys.
        """
        try:
            return SecretStr(self._fernet.decrypt(sealed.encode()).decode())
        except InvalidToken:
            raise SealError(
                "a sealed value cannot be decrypted with any of AVATAR_SESSIONS_SEAL_KEYS: the"
                " worker that sealed it has another key"
            ) from None
