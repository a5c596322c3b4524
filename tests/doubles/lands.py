"""The three drivers that the tables of integration tests are run on, behind one way to make and to break an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from doubles.driver import FakeDriver, Gate
from doubles.pools import URL
from sqla_poolguard import GuardedPool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["LANDS", "Land"]

LANDS = ("fake", "aiosqlite", "asyncpg")


class Land:
    """One driver. `down` makes every further connect fail with `refusal`, and every connection dead; `up` ends that."""

    def __init__(self, name: str, url: str, tmp_path: Any) -> None:
        self.name = name
        self.url = {"fake": URL, "aiosqlite": f"sqlite+aiosqlite:///{tmp_path}/db.sqlite", "asyncpg": url}[name]
        self.driver = FakeDriver()
        self.broken = False

    def engine(self, **options: Any) -> AsyncEngine:
        """Make an engine with a GuardedPool."""
        options.setdefault("poolclass", GuardedPool)
        if self.name == "fake":
            options |= {"creator": self.driver.open, "_initialize": False}
        engine = create_async_engine(self.url, **options)
        dialect = engine.sync_engine.dialect
        connect, ping = dialect.connect, dialect.do_ping

        def connect_if_up(*args: Any, **kw: Any) -> Any:
            if self.broken:
                raise ConnectionRefusedError("down")  # noqa: EM101
            return connect(*args, **kw)

        def ping_if_up(connection: Any) -> bool:
            if self.broken:
                return False
            return ping(connection)

        if self.name != "fake":
            dialect.connect = connect_if_up  # type: ignore[method-assign]
            dialect.do_ping = ping_if_up  # type: ignore[method-assign]
        return engine

    def down(self) -> None:
        """Let the database be gone."""
        self.broken = True
        self.driver.connect = self.driver.ping = Gate.ERROR

    def up(self) -> None:
        """Let it be back."""
        self.broken = False
        self.driver.connect = self.driver.ping = Gate.OK

    async def close_detached(self, connection: Any) -> None:
        """Close a connection that the pool does not know any more."""
        if self.name == "fake":
            connection.gone()
        else:
            await connection.driver_connection.close()

    async def server_connections(self) -> int:
        """Count the connections of this process that PostgreSQL has, but for the one that asks."""
        plain = self.url.replace("+asyncpg", "")
        asking = await asyncpg.connect(plain)
        try:
            return await asking.fetchval(  # type: ignore[no-any-return]
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        finally:
            await asking.close()
