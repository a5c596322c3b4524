"""
Switch the pool on by URL alone: `postgresql+asyncpg://…?plugin=poolguard&poolguard_hold_warning=2`.

SQLAlchemy loads it through the entry point group `sqlalchemy.plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard._guard import Guard
from sqla_poolguard._pool import GuardedPool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = ["PoolguardPlugin"]

_PREFIX: Final = "poolguard_"


class PoolguardPlugin(CreateEnginePlugin):
    """
    Give an asyncio engine a `GuardedPool`, with the options of `Guard` that the URL names as `poolguard_<option>`.

    Raises:
        ValueError: an unknown option, a value that is not allowed, or another poolclass beside the plugin.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        options = {key.removeprefix(_PREFIX): value for key, value in url.query.items() if key.startswith(_PREFIX)}
        for option, value in options.items():
            if not isinstance(value, str):
                msg = f"{_PREFIX}{option} stands {len(value)} times in the URL; allowed: once"
                raise ValueError(msg)  # noqa: TRY004 - one kind of error for every option
        given = kwargs.get("poolclass") or AsyncAdaptedQueuePool
        if not issubclass(given, GuardedPool):
            if given is not AsyncAdaptedQueuePool:
                msg = f"plugin=poolguard cannot be used with poolclass={given.__name__}; allowed: GuardedPool or none"
                raise ValueError(msg)
            kwargs["poolclass"] = GuardedPool
        if options:
            base = Guard.read(kwargs.get("guard"), kwargs["poolclass"].default_guard)
            kwargs["guard"] = Guard.from_options(options, base=base)

    def update_url(self, url: URL) -> URL:
        """Take our own parameters out of the URL, so that the driver does not see them."""
        return url.difference_update_query([key for key in url.query if key.startswith(_PREFIX)])
