"""
The public API, used as a typed program would use it.

mypy --strict and pyright check this file. It is NOT meant to be executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, assert_type

import sqlalchemy.exc
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import (
    CheckoutError,
    CheckoutRejected,
    CheckoutTimeout,
    DatabaseUnavailable,
    Declaration,
    Downtime,
    Ending,
    Finding,
    Guard,
    GuardedPool,
    Holder,
    HolderState,
    NoConnectionError,
    Observer,
    PoolSnapshot,
    Reason,
    Site,
    Verdict,
    Waste,
    allow_hold,
    release,
    snapshot,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from sqla_poolguard import (
        Checkout,
        Opened,
        Rejection,
        Wait,
    )


class Everything(Observer):
    """Hears everything."""

    def granted(self, holder: Holder) -> None:
        """Use a holder."""
        assert_type(holder.site, Site | None)
        assert_type(holder.task, str | None)
        assert_type(holder.held, float)
        assert_type(holder.waited, float)
        assert_type(holder.overdue, bool)
        assert_type(holder.stack, tuple[Site, ...])

    def ended(self, checkout: Checkout) -> None:
        """Use a checkout."""
        assert_type(checkout.ending, Ending)
        if checkout.ending is Ending.LEAKED:
            assert_type(checkout.pool, str)

    def waited(self, wait: Wait) -> None:
        """Use a wait."""
        assert_type(wait.queued, float)
        assert_type(wait.ahead, int)

    def rejected(self, rejection: Rejection) -> None:
        """Use a rejection."""
        assert_type(rejection.reason, Reason)
        assert_type(rejection.error, BaseException)

    def opened(self, opened: Opened) -> None:
        """Use an opening."""
        assert_type(opened.create_time, float)

    def overdue(self, holder: Holder) -> None:
        """Use a holder."""

    def returned(self, checkout: Checkout) -> None:
        """Use a checkout."""

    def leaked(self, checkout: Checkout) -> None:
        """Use a checkout."""


guard = Guard(
    name="orders",
    hold_warning=2,
    max_waiting=10,
    overflow_linger=1.5,
    ping_after=None,
    capture="stack",
    telemetry=False,
    observers=(Everything(),),
)
assert_type(guard.name, str | None)
assert_type(guard.hold_warning, float | None)
assert_type(guard.max_waiting, int | None)
assert_type(guard.capture, Literal["site", "stack", "off"])
assert_type(guard.observers, tuple[Observer, ...])
Guard(capture="everything")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Guard(hold_warnin=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
guard.name = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]

engine: AsyncEngine = create_async_engine("postgresql+asyncpg://", poolclass=GuardedPool, guard=guard)
configured: type[GuardedPool] = GuardedPool.configure(hold_warning=1)
create_async_engine("postgresql+asyncpg://", poolclass=configured)


def look(pool: GuardedPool) -> None:
    """Use a snapshot."""
    assert_type(pool.guard, Guard)
    assert_type(pool.name, str)
    seen = snapshot(engine)
    assert_type(seen, PoolSnapshot)
    assert_type(snapshot(engine.sync_engine), PoolSnapshot)
    assert_type(snapshot(pool), PoolSnapshot)
    assert_type(pool.snapshot(), PoolSnapshot)
    assert_type(seen.limit, int | None)
    assert_type(seen.used, int)
    assert_type(seen.holders, tuple[Holder, ...])
    assert_type(seen.ended, Mapping[str, int])
    assert_type(str(seen), str)
    assert_type(seen.findings, tuple[Finding, ...])
    assert_type(seen.waste, tuple[Waste, ...])
    assert_type(seen.declared, tuple[Declaration, ...])
    assert_type(seen.holders[0].state, HolderState | None)
    snapshot("orders")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def catch() -> int:
    """Use the errors."""
    try:
        async with engine.connect():
            return 200
    except CheckoutRejected as rejected:
        assert_type(rejected.reason, str)
        assert_type(rejected.retry_after, float | None)
        return rejected.status_code
    except CheckoutTimeout as timeout:
        assert_type(timeout.waited, float)
        assert_type(timeout.snapshot, PoolSnapshot)
        assert_type(timeout.verdict, Verdict | None)
        return len(timeout.to_problem())
    except CheckoutError as error:
        assert_type(error.status_code, int)
        return 503
    except sqlalchemy.exc.TimeoutError:
        return 503


async def catch_all() -> int:
    """Use the errors of an outage, and the superclass of all."""
    try:
        async with engine.connect():
            return 200
    except DatabaseUnavailable as unavailable:
        assert_type(unavailable.downtime, Downtime)
        assert_type(unavailable.downtime.next_try, float | None)
        assert_type(unavailable.reason, str)
        return unavailable.status_code
    except NoConnectionError as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.snapshot, PoolSnapshot)
        return len(error.to_problem())
    except sqlalchemy.exc.OperationalError:
        return 503


async def give_back(session: AsyncSession) -> None:
    """Use declarations and early release."""
    with allow_hold("LISTEN"):
        await session.connection()
    await release(session)
    await release(engine)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
