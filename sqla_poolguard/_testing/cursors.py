"""The fake driver's cursors: they execute anything, and find nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.asyncpg import PGExecutionContext_asyncpg
from sqlalchemy.util.concurrency import await_only

if TYPE_CHECKING:
    from sqla_poolguard._testing.driver import FakeDriver

__all__ = ["FakeContext", "FakeCursor", "FakeStream"]


class FakeCursor:
    """Executes anything, finds nothing."""

    description: tuple[tuple[Any, ...], ...] | None = None
    rowcount = -1

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def execute(self, *_: Any) -> None:
        """Wait for the server's answer."""
        await_only(self._driver.answer())

    def close(self) -> None:
        """Do nothing."""


class FakeStream(FakeCursor):
    """A cursor of the server's: it has columns, and no rows. There are none to come, so only to execute asks the server."""

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__(driver)
        self.name_columns(("?column?",))

    def name_columns(self, names: tuple[str, ...]) -> None:
        """Have columns of these names."""
        self.description = tuple((name, None, None, None, None, None, None) for name in names)

    def fetchone(self) -> None:
        """Find no row."""

    def fetchmany(self, _: int | None = None) -> list[Any]:
        """Find no rows."""
        return []

    fetchall = fetchmany


class FakeContext(PGExecutionContext_asyncpg):
    """How SQLAlchemy executes a statement of its own making: it knows the columns that a stream is to have."""

    def create_server_side_cursor(self) -> Any:
        """Give a cursor with these columns."""
        cursor: Any = self._dbapi_connection.cursor(server_side=True)
        names = tuple(column.keyname for column in getattr(self.compiled, "_result_columns", ()))
        if names:
            cursor.name_columns(names)
        return cursor
