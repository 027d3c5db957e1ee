"""The client's settings, read once at the edge, and a check for misspelt variables.

Temporal's address and credentials are not here: the Temporal SDK reads them from its own standard
environment configuration (``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, ``TEMPORAL_API_KEY``,
``TEMPORAL_CONFIG_FILE``, ``TEMPORAL_TLS_*``...).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from avatar_sessions.contract.errors import InvalidArgument
from avatar_sessions.contract.names import SESSIONS_TASK_QUEUE

ENV_PREFIX: Final = "AVATAR_SESSIONS_"
VARIABLES: Final = frozenset(
    ENV_PREFIX + name
    for name in (
        "CLIP_ALLOW_PRIVATE_ADDRESSES",
        "CLIP_FOLDER",
        "DRAIN_TIMEOUT_S",
        "INGRESS_CERTIFICATE",
        "INGRESS_HOST",
        "INGRESS_ORIGINS",
        "INGRESS_PATH_TICKETS",
        "INGRESS_PORT",
        "INGRESS_PRIVATE_KEY",
        "INGRESS_URL",
        "JANITOR_DRY_RUN",
        "JANITOR_GRACE_S",
        "JANITOR_INTERVAL_S",
        "JANITOR_OWNS_KEY",
        "KEEP_ALIVE_S",
        "LOG_LEVEL",
        "MAX_LEAD_S",
        "MAX_SESSIONS",
        "SEAL_KEYS",
        "SEAL_TEXTS",
        "TASK_QUEUE",
        "TICKET_TTL_S",
        "UNSUPERVISED_S",
    )
)
"""Every variable with the prefix, the workers' included: clients and workers often share one
environment file, so a client must not take a worker's variable for a misspelt one."""
_NEAREST_CUTOFF: Final = 0.6
"""How alike two names must be, from 0 to 1, for one to be suggested for the other."""


class ClientSettings(BaseSettings):
    """Settings of the client, as a backend sets them by environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    seal_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """The keys that open access tokens: comma-separated, newest first, the same as the workers'.
    Needed for `attach`, `open`, live speech and sealed clips."""
    task_queue: Annotated[str, Field(min_length=1)] = SESSIONS_TASK_QUEUE
    """The Temporal task queue on which sessions are started. It must be the workers'."""

    @field_validator("seal_keys", mode="before")
    @classmethod
    def _comma_separated(cls, keys: object) -> object:
        if isinstance(keys, str):
            return tuple(key.strip() for key in keys.split(",") if key.strip())
        return keys


def read_settings() -> ClientSettings:
    """Read the client's settings from the environment.

    Raises:
        InvalidArgument: a variable is unusable; each one is named, no value is quoted.
    """
    try:
        return ClientSettings()
    except ValidationError as error:
        problems = "; ".join(
            f"{ENV_PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False)
        )
        raise InvalidArgument(problems) from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Name each ``AVATAR_SESSIONS_`` variable that is not a setting, and the nearest one that is.

    Args:
        environment: the names of the variables that are set; values are not looked at.

    Returns:
        A sentence for each, in alphabetical order.
    """
    sentences = []
    for name in sorted(environment):
        if not name.startswith(ENV_PREFIX) or name in VARIABLES:
            continue
        # Compared without the prefix, which would make any two names alike.
        endings = [known.removeprefix(ENV_PREFIX) for known in VARIABLES]
        nearest = difflib.get_close_matches(
            name.removeprefix(ENV_PREFIX), sorted(endings), n=1, cutoff=_NEAREST_CUTOFF
        )
        hint = f": did you mean {ENV_PREFIX}{nearest[0]}?" if nearest else ""
        sentences.append(f"{name} is set and is not a setting{hint}")
    return sentences
