"""Gives every asyncio engine that is made from now on a `GuardedPool`, where it would have had SQLAlchemy's default."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard._pool import GuardedPool

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["guard_everything"]


def guard_everything() -> Callable[[], None]:
    """
    Begin.

    `create_async_engine` makes its engine by a function that its module has imported; that name is replaced,
    so it does not matter who has imported `create_async_engine` before.

    Returns:
        Ends it; engines that were made meanwhile keep their pool.
    """
    home: Any = sqlalchemy_asyncio.engine
    create: Callable[..., Any] = home._create_engine

    @functools.wraps(create)
    def create_guarded(url: Any, **options: Any) -> Any:
        if "pool" not in options and _has_usual_pool(url, options):
            options["poolclass"] = GuardedPool
        return create(url, **options)

    def end() -> None:
        home._create_engine = create

    home._create_engine = create_guarded
    return end


def _has_usual_pool(url: Any, options: dict[str, Any]) -> bool:
    """Tell whether an engine would have SQLAlchemy's usual pool: it was asked for, or is the dialect's default for this URL."""
    given = options.get("poolclass")
    if given is not None:
        return given is AsyncAdaptedQueuePool
    parsed = make_url(url)
    if {"plugin", "plugins"} & (set(parsed.query) | set(options)):
        return False  # it may choose a pool itself; ours does
    dialect: Any = parsed.get_dialect(_is_async=True)
    return dialect.get_pool_class(parsed) is AsyncAdaptedQueuePool
