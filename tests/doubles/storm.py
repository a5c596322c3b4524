"""A seeded storm over an engine: many tasks that check out, and end in every way there is."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from doubles.driver import greenlet_spawn
from sqla_poolguard import CheckoutTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

ENDINGS = {"close": 60, "async with": 22, "invalidate": 5, "soft": 5, "detach": 4, "leak": 4}
PAUSES = (0.0, 0.0, 0.0, 0.0009765625, 0.00390625)


def seed() -> int:
    """Give the seed of `POOLGUARD_STORM_SEED`, or a new one; printed, so that a failure can be run again."""
    text = os.environ.get("POOLGUARD_STORM_SEED")
    chosen = int(text) if text else random.SystemRandom().randrange(1_000_000)
    print(f"POOLGUARD_STORM_SEED={chosen}")  # noqa: T201 - pytest shows it when the storm fails
    return chosen


class Storm:
    """So many checkouts, with `check` called before and after every step of each."""

    def __init__(
        self,
        db: AsyncEngine,
        rnd: random.Random,
        check: Callable[[], object],
        *,
        cancelled: float = 0.25,
        collector_at_any_moment: bool = False,
    ) -> None:
        """
        Prepare a storm.

        Args:
            db: the engine.
            rnd: where chance comes from; the same seed gives the same storm.
            check: called before and after every step.
            cancelled: the share of tasks that are cancelled at some moment.
            collector_at_any_moment: let the garbage collector run when it likes, and often, not only between steps.
        """
        self.db, self.rnd, self.check, self.cancelled = db, rnd, check, cancelled
        self.collector_at_any_moment = collector_at_any_moment
        self.seen: Counter[str] = Counter()

    async def run(self, checkouts: int, meanwhile: Callable[[], Any] | None = None) -> None:
        """Let the tasks loose, in bursts, and wait until all have ended and every leak is collected."""
        gc.collect()
        gc.freeze()  # what was there before is not looked at again and again
        thresholds = gc.get_threshold()
        gc.set_threshold(*((150, 5, 5) if self.collector_at_any_moment else (0,)))
        try:
            await self._run(checkouts, meanwhile)
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    async def _run(self, checkouts: int, meanwhile: Callable[[], Any] | None) -> None:
        loop, rnd, tasks = asyncio.get_running_loop(), self.rnd, set()
        for number in range(checkouts):
            task = asyncio.create_task(self._job())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if rnd.random() < self.cancelled:
                for _ in range(rnd.choice((1, 1, 1, 3))):
                    loop.call_later(rnd.choice((*PAUSES, 0.015625)), task.cancel)
            if number % 7 == 0:
                await asyncio.sleep(rnd.choice((0.0, 0.0009765625, 0.00390625)))
            if number % 50 == 0:
                gc.collect()
                self.check()
            if meanwhile is not None and rnd.random() < 0.02:
                await meanwhile()
        while tasks:
            await asyncio.wait(tasks)
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0.25)
            self.check()

    async def _job(self) -> None:
        self.check()
        try:
            connection = await self.db.connect()
        except (CheckoutTimeout, OSError, DBAPIError) as error:
            self.seen[type(error).__name__] += 1
            return
        finally:
            self.check()
        self.seen["granted"] += 1
        ending = self.rnd.choices(tuple(ENDINGS), tuple(ENDINGS.values()))[0]
        try:
            await asyncio.sleep(self.rnd.choice(PAUSES))
        except asyncio.CancelledError:
            ending = "close"
            raise
        finally:
            try:
                await self._end(connection, ending)
            finally:
                self.check()
                del connection

    async def _end(self, connection: AsyncConnection, ending: str) -> None:
        if ending == "leak":
            self.seen["leaked"] += 1
            circle: list[Any] = [connection]
            circle.append(circle)
            return
        raw = connection.sync_connection.connection  # type: ignore[union-attr]
        if ending == "detach":
            self.seen["detached"] += 1
            driver_side = raw.dbapi_connection
            getattr(driver_side, "leave", int)()
            raw.detach()
            self.check()
        try:
            if ending == "async with":
                async with connection:
                    pass
            elif ending == "invalidate":
                await connection.invalidate()
                self.check()
            elif ending == "soft":
                await greenlet_spawn(raw.invalidate, soft=True)
                self.check()
        finally:
            await connection.close()
