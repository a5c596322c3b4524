"""
The public API, used as a typed program would use it.

mypy --strict and pyright check this file. It is NOT meant to be executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, assert_type

import sqlalchemy.exc
from fastapi import FastAPI
from litestar import Litestar
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.responses import Response

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
    deadline,
    priority,
    release,
    snapshot,
)
from sqla_poolguard.asgi import (
    PoolGuardMiddleware,
    add_exception_handlers,
    debug_page,
    litestar_handlers,
    liveness,
    no_connection,
    readiness,
)
from sqla_poolguard.monitor import MonitorRow, PoolMonitor, Session
from sqla_poolguard.prometheus import PoolCollector, dashboard, register, rules
from sqla_poolguard.testing import (
    ConnectionWatch,
    FakeClock,
    FakeDriver,
    Gate,
    Stay,
    exhaust,
    max_concurrent,
    no_leaks,
    released_before_response,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from starlette.requests import Request

    from sqla_poolguard import (
        Checkout,
        Opened,
        Overload,
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

    def overloaded(self, overload: Overload) -> None:
        """Use an overload."""
        assert_type(overload.count, int)
        assert_type(overload.acted, bool)

    def leaked(self, checkout: Checkout) -> None:
        """Use a checkout."""


guard = Guard(
    name="orders",
    hold_warning=2,
    fail_fast="observe",
    max_wait=0.5,
    max_waiting=10,
    overflow_linger=1.5,
    ping_after=None,
    capture="stack",
    telemetry=False,
    meter_provider=NoOpMeterProvider(),
    tracer_provider=NoOpTracerProvider(),
    observers=(Everything(),),
)
assert_type(guard.name, str | None)
assert_type(guard.hold_warning, float | None)
assert_type(guard.fail_fast, bool | Literal["observe"])
assert_type(guard.max_wait, float | None)
assert_type(guard.max_waiting, int | None)
assert_type(guard.capture, Literal["site", "stack", "off"])
assert_type(guard.observers, tuple[Observer, ...])
Guard(capture="everything")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Guard(fail_fast="never")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
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
    assert_type(seen.would_reject, int)
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


async def answer(request: Request, error: CheckoutError) -> None:
    """Use what ASGI applications get."""
    app = FastAPI()
    app.add_middleware(PoolGuardMiddleware, deadline_header="x-request-timeout", deadline_unit="ms", max_deadline=10)
    add_exception_handlers(app)
    app.add_exception_handler(CheckoutError, no_connection)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(await no_connection(request, error), Response | None)
    app.add_route("/livez", liveness())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    app.mount("/readyz", readiness(engine, engine.sync_engine, leave_rotation=True, stalled_after=5, readings=2))
    app.mount("/poolguard", debug_page(engine, allow=lambda scope: bool(scope["client"])))
    Litestar(exception_handlers=litestar_handlers)
    PoolGuardMiddleware(app, deadline_unit="min")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    readiness("orders")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def scrape() -> None:
    """Use what Prometheus gets."""
    assert_type(register(), PoolCollector)
    registry = CollectorRegistry()
    registry.unregister(register(registry, engine, engine.sync_engine, each_process=True))
    registry.register(PoolCollector(engine))
    assert_type(rules(), str)
    assert_type(dashboard(), str)
    PoolCollector("orders")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def be_urgent() -> None:
    """Use deadlines and priorities."""
    with deadline(0.8), priority("critical"):
        async with engine.connect():
            pass
    priority("high")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    deadline("1")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def tests(poolguard: ConnectionWatch) -> None:
    """Assert on connections, and play a database."""
    clock, driver = FakeClock(), FakeDriver(connect="slow", delay=0.5, execute=Gate.OK)
    engine = assert_type(driver.engine(poolclass=clock.poolclass, pool_timeout=3), AsyncEngine)
    driver.execute = "error"
    assert_type(driver.execute, Gate)
    assert_type(clock.elapsed, float)
    with exhaust(engine), max_concurrent(3) as watch:
        assert_type(watch, ConnectionWatch)
    async with no_leaks(quiesce=0.5) as inner:
        assert_type(inner.leases, tuple[Stay, ...])
    await poolguard.settle()
    poolguard.assert_no_leaks()
    poolguard.assert_max_concurrent(2)
    assert_type(poolguard.snapshot(), PoolSnapshot)
    for stay in poolguard.leases:
        assert_type(stay.held, float)
        assert_type(stay.site, Site | None)
    with released_before_response(poolguard.app(FastAPI())):
        poolguard.assert_released_before_response()


async def monitored(engine: AsyncEngine, pool: GuardedPool) -> None:
    """The size at run time, and the server's side of who holds."""
    pool.resize(10, 5)
    pool.resize(pool_size=10, max_overflow=5)
    async with PoolMonitor(engine, interval=1.0, starvation=None) as monitor:
        for row in monitor.rows():
            assert_type(row, MonitorRow)
            assert_type(row.holder, Holder)
            assert_type(row.session, Session | None)
            assert_type(row.blocks, int)
    PoolMonitor([engine, engine.sync_engine], slots_low=3)
    PoolMonitor(engine, intervall=1.0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Guard(inspect=True, processes=4)
