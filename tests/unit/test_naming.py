"""What a pool is called."""

from __future__ import annotations

import functools

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import GuardedPool
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._naming import address_of, claim


def test_names_are_unique_while_they_live():
    """The second pool of a name gets a number; a name that died is free again."""
    first, second, third = Ledger(), Ledger(), Ledger()
    claims = [claim("unique-1", ledger) for ledger in (first, second, third)]
    assert [taken.name for taken in claims] == ["unique-1", "unique-1#2", "unique-1#3"]
    del claims[1]
    assert claim("unique-1", Ledger()).name == "unique-1#2", "although somebody reads its books"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql+asyncpg://u:secret@db.example:6432/shop", "db.example:6432/shop"),
        ("postgresql+asyncpg://u:secret@db.example/shop", "db.example/shop"),
        ("postgresql+asyncpg://u:sec@secret@db.example/shop", "db.example/shop"),
        ("postgresql+asyncpg:///shop", "localhost/shop"),
        ("postgresql+asyncpg://u:secret@db.example", "db.example"),
        ("sqlite+aiosqlite:////data/shop.db", "sqlite:/data/shop.db"),
    ],
)
def test_named_after_the_database(url, name):
    """Host, port and database of the URL; neither user nor password."""
    pool = create_async_engine(url, poolclass=GuardedPool).sync_engine.pool
    assert pool.name.split("#")[0] == name
    assert "secret" not in pool.name


@pytest.mark.parametrize("creator", [lambda: None, functools.partial(int), int, print])
def test_foreign_creator_is_named_after_the_dialect(creator):
    """A creator of the application's own tells nothing."""
    assert address_of(creator, type("D", (), {"name": "postgresql"})()) == "postgresql"
    assert address_of(creator, object()) == "pool"


@pytest.mark.parametrize("cparams", [None, "text", 5, ["host"], {"host": None}])
def test_foreign_closures_do_no_harm(cparams):
    """A creator whose closure happens to use SQLAlchemy's names, for something else, is no obstacle."""

    def creator():
        return cparams

    assert address_of(creator, type("D", (), {"name": "postgresql"})()) == "postgresql"


def test_connection_string_as_an_argument_is_not_shown():
    """What looks like a connection string with a password is not taken for a name."""
    cargs_tup = ("postgresql://u:secret@h/db",)

    def creator():
        return cargs_tup

    assert address_of(creator, type("D", (), {"name": "postgresql"})()) == "postgresql"


@pytest.mark.parametrize("dsn", ["host=h password=secret dbname=d", "Driver=x;PWD=secret"])
def test_keyword_connection_string_is_not_shown(dsn):
    """Neither is a connection string in key=value form."""
    cargs_tup = (dsn,)

    def creator():
        return cargs_tup

    assert "secret" not in address_of(creator, type("D", (), {"name": "postgresql"})())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql+asyncpg://u:p@/d?host=a:1&host=b:2", "a:1,b:2/d"),
        ("sqlite+aiosqlite:///file:x.db?uri=true&key=secret", "sqlite:file:x.db"),
    ],
)
def test_several_hosts_and_parameters(url, name):
    """Hosts are listed as in a URL; what may be a secret behind a file's name is cut off."""
    assert create_async_engine(url, poolclass=GuardedPool).sync_engine.pool.name.partition("#")[0] == name
