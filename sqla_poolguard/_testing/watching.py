"""Watches the connections of one test, or of one block of it, and asserts what should be so."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

from sqla_poolguard._callsite import this_task
from sqla_poolguard._facts import Ending
from sqla_poolguard._naming import ledgers
from sqla_poolguard._snapshot import snapshot
from sqla_poolguard._testing.faults import FaultKind, describe, fault_of
from sqla_poolguard._testing.judgement import accuse
from sqla_poolguard._testing.stays import Owner
from sqla_poolguard._testing.tasks import living_tasks, quiesce, until_back
from sqla_poolguard._testing.witness import Witness

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable, MutableMapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from sqla_poolguard._facts import PoolSnapshot
    from sqla_poolguard._pool import GuardedPool
    from sqla_poolguard._testing.stays import Stay

    ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["ConnectionWatch"]


class _Request:
    """One request to an application that is watched."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stays: list[Stay] = []


_request: Final[ContextVar[_Request | None]] = ContextVar("sqla_poolguard_request", default=None)


class ConnectionWatch:
    """
    Sees every connection that is checked out of any `GuardedPool` from its beginning on, but for tasks that were there before.

    The fixture `poolguard` is one; outside of pytest it is a context manager. What it asserts raises `AssertionError`, with the lines.
    """

    def __init__(self) -> None:
        self._witness = Witness(Owner("the block that is watched"))
        self._witness.on_grant.append(self._granted)
        self._most = 0
        self._crowd: list[Stay] = []
        """What was out when the most was."""
        self._late: list[str] = []
        self._apps = 0
        self._earlier: weakref.WeakSet[Task[Any]] = weakref.WeakSet()
        """Tasks that were there before: what they check out is not this block's."""
        self._pools: weakref.WeakSet[GuardedPool] = weakref.WeakSet()

    def __enter__(self) -> Self:
        self._earlier = weakref.WeakSet(task for task in living_tasks() if task is not this_task())
        self._witness.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._witness.leave()

    @property
    def leases(self) -> tuple[Stay, ...]:
        """Every lease since the beginning, those that have ended included, in the order of the checkouts; not those of tasks from before."""
        return tuple(stay for stay in tuple(self._witness.owner.stays) if not self._is_earlier(stay))

    @property
    def most_concurrent(self) -> int:
        """The most connections that were out at one time."""
        return self._most

    def snapshot(self, engine: AsyncEngine | GuardedPool | None = None) -> PoolSnapshot:
        """
        Look at a pool as it is now.

        Args:
            engine: whose pool; default: the only one from which anything was checked out.

        Raises:
            ValueError: there is no such one, or there are several.
        """
        if engine is not None:
            return snapshot(engine)
        pools = list(self._pools)
        if len(pools) != 1:
            named = ", ".join(sorted(repr(pool.name) for pool in pools)) or "none"
            msg = f"snapshot() without an engine wants one pool that was used; used were: {named} of {len(ledgers())}"
            raise ValueError(msg)
        return pools[0].snapshot()

    async def settle(self, seconds: float = 1.0) -> None:
        """
        Give background tasks time to give their connections back.

        Args:
            seconds: how long, at most.
        """
        await until_back([stay for stay in self.leases if stay.is_out], seconds)

    def settle_now(self, seconds: float = 1.0) -> None:
        """Do likewise where no event loop runs, in the loops of the connections."""
        quiesce([stay for stay in self.leases if stay.is_out], seconds)

    def assert_no_leaks(self) -> None:
        """
        Assert that every connection has come back, and none was left to the garbage collector.

        Raises:
            AssertionError: one has not, or was.
        """
        if any(stay.is_out for stay in self.leases):
            gc.collect()
        faults = [accuse(stay) for stay in self.leases if stay.is_out]
        faults += [fault_of(FaultKind.LEAKED, stay) for stay in self.leases if stay.ending is Ending.LEAKED]
        if faults:
            raise AssertionError(describe(faults))

    def assert_max_concurrent(self, most: int) -> None:
        """
        Assert that never more connections were out at one time, of all pools together.

        Raises:
            AssertionError: more were.
            ValueError: `most` is no whole number, 0 or more.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            msg = f"assert_max_concurrent({most!r}) is not allowed; allowed: a whole number, 0 or more"
            raise ValueError(msg)
        if self._most > most:
            lines = "".join(f"\n    {stay.site}" for stay in self._crowd)
            msg = f"{self._most} connections were out at one time, {most} are allowed; checked out at{lines}"
            raise AssertionError(msg)

    def app(self, app: ASGIApp) -> ASGIApp:
        """Wrap an ASGI application, to see which connections its requests hold while their responses are sent."""
        self._apps += 1

        async def watched(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            request = _Request(f"{scope.get('method')} {scope.get('path')}")
            token = _request.set(request)

            async def sending(message: MutableMapping[str, Any]) -> None:
                late = [stay for stay in request.stays if stay.is_out]
                self._late += [f"{request.name}: checked out at {stay.site}" for stay in late]
                request.stays = [stay for stay in request.stays if stay not in late]  # once is enough
                await send(message)

            try:
                await app(scope, receive, sending)
            finally:
                _request.reset(token)

        return watched

    def assert_released_before_response(self) -> None:
        """
        Assert that no request to an application that `app` has wrapped held a connection while its response was sent.

        A client that reads slowly would keep it.

        Raises:
            AssertionError: one did.
            ValueError: no application was wrapped.
        """
        if not self._apps:
            msg = "assert_released_before_response() sees only applications that were wrapped: give `poolguard.app(app)` to the client"
            raise ValueError(msg)
        if self._late:
            lines = "".join(f"\n    {line}" for line in self._late)
            msg = f"{len(self._late)} connections were held while a response was sent:{lines}"
            raise AssertionError(msg)

    def _granted(self, stay: Stay) -> None:
        if stay.record is not None:
            self._pools.add(stay.record.guarded)
        request = _request.get()
        if request is not None:
            request.stays.append(stay)
        if len(self._witness.out) > self._most:
            out = [one for one in self._witness.now_out() if not self._is_earlier(one)]
            if len(out) > self._most:
                self._crowd, self._most = out, len(out)

    def _is_earlier(self, stay: Stay) -> bool:
        task = stay.task() if stay.task is not None else None
        return task is not None and task in self._earlier
