"""The shops of the server process: the same application on the stock pool and on GuardedPool, and a watch on each."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sqla_poolguard import Guard, GuardedPool
from sqla_poolguard._cli.demo.app import create_app
from sqla_poolguard._cli.demo.settings import MAX_OVERFLOW, POOL_SIZE, SHOP_AWAIT_WARNING, SHOP_TIMEOUT

if TYPE_CHECKING:
    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Shop", "open_shops"]

_SAMPLE_SECONDS: Final = 0.01
_OPTIONS: Final = {
    "pool_size": POOL_SIZE,
    "max_overflow": MAX_OVERFLOW,
    "connect_args": {"timeout": 10, "server_settings": {"application_name": "poolguard-demo"}},
}


class Shop:
    """One application on one engine. Both pools are watched alike, through what SQLAlchemy offers for any pool."""

    def __init__(self, engine: AsyncEngine, payments: httpx.AsyncClient) -> None:
        self.engine = engine
        self.app = create_app(engine, payments)
        self._opened = 0
        self._samples: list[tuple[float, int]] = []
        self._watch: asyncio.Task[None] | None = None
        event.listen(engine.sync_engine, "connect", self._count)

    def _count(self, _connection: object, _record: object) -> None:
        self._opened += 1

    def in_use(self) -> int:
        """Connections that are out now."""
        pool: Any = self.engine.sync_engine.pool
        return int(pool.checkedout())

    def watch(self) -> None:
        """Begin to count the connections in use, 100 times a second."""
        self._opened = 0
        self._samples = []
        self._watch = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            self._samples.append((time.monotonic(), self.in_use()))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def report(self) -> dict[str, Any]:
        """End the watch, close the connections, and tell what was seen: `opened`, and `samples` of (seconds, in use)."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        start = self._samples[0][0] if self._samples else 0.0
        samples = [(at - start, used) for at, used in self._samples]
        await self.engine.dispose()
        return {"opened": self._opened, "samples": samples}


def open_shops(database: str, payments: httpx.AsyncClient) -> dict[str, Shop]:
    """Open the shops by the path they are served under. Nothing is connected yet."""

    def stock(**options: Any) -> Shop:
        return Shop(create_async_engine(database, poolclass=AsyncAdaptedQueuePool, **_OPTIONS, **options), payments)

    def guarded(guard: Guard, **options: Any) -> Shop:
        return Shop(create_async_engine(database, poolclass=GuardedPool, guard=guard, **_OPTIONS, **options), payments)

    return {
        "burst/stock": stock(),
        "burst/guarded": guarded(Guard(name="burst")),
        "shop/stock": stock(pool_timeout=SHOP_TIMEOUT),
        "shop/guarded": guarded(Guard(name="shop", await_warning=SHOP_AWAIT_WARNING), pool_timeout=SHOP_TIMEOUT),
    }
