"""Gets what the suite needs and the repository does not hold: SQLAlchemy's sources, and a database as its README asks for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Final

import asyncpg
import sqlalchemy

if TYPE_CHECKING:
    from pathlib import Path

    from sqla_poolguard._cli.embedded import EmbeddedPostgres

__all__ = ["POSTGRES_SETTINGS", "prepare", "unpacked"]

POSTGRES_SETTINGS: Final = {"max_prepared_transactions": 10, "max_connections": 100}
_README_UNITTESTS: Final = (
    "CREATE SCHEMA test_schema",
    "CREATE SCHEMA test_schema_2",
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
)


def unpacked(folder: Path) -> Path:
    """Download the source distribution of the SQLAlchemy that is installed here, and unpack it; once for each folder."""
    version = sqlalchemy.__version__
    sources = folder / f"sqlalchemy-{version}"
    if not sources.exists():
        where = folder / "download"
        # --no-binary for SQLAlchemy only: pip reads its metadata with a build backend that need not be built from source
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*pip, "--no-binary", "sqlalchemy", "--dest", where, f"sqlalchemy=={version}"], check=True)
        (archive,) = where.glob(f"*-{version}.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archived = next(folder.glob(f"[sS][qQ][lL]*-{version}"))
        if archived != sources:
            archived.rename(sources)
    return sources


def prepare(server: EmbeddedPostgres) -> str:
    """Make the database that SQLAlchemy's README.unittests.rst asks for; return its URL."""
    asyncio.run(_prepare(server))
    return server.url(database="test")


async def _prepare(server: EmbeddedPostgres) -> None:
    for database, statements in (("postgres", ("CREATE DATABASE test",)), ("test", _README_UNITTESTS)):
        connection = await asyncpg.connect(server.url("postgresql", database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()
