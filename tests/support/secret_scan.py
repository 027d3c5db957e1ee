"""The scan at the end of each run, by the name the tests know it by: see the module it is in."""

from deploy.local.secret_scan import (
    find_secrets,
    kinds_in,
    leaks_in_histories,
    remember,
    remembered,
)

__all__ = ["find_secrets", "kinds_in", "leaks_in_histories", "remember", "remembered"]
