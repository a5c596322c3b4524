"""How options reach a pool, how they survive, and what is said of wrong ones."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path

import pytest
from doubles.pools import TimedPool, all_out, at_rest, engine, pool_of
from sqlalchemy import create_engine
from sqlalchemy.dialects import plugins
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import async_engine_from_config, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from sqla_poolguard import Guard, GuardedPool, Observer, plugin

URL = "postgresql+asyncpg://u:secret@h:5433/shop"


@pytest.fixture
def poolguard_plugin():
    """See that `plugin=poolguard` is found, as it is where the package is installed."""
    plugins.register("poolguard", "sqla_poolguard.plugin", "PoolguardPlugin")


def test_poolclass_alone():
    """`poolclass=GuardedPool` is enough: the defaults apply, and the pool is named after the database."""
    pool = create_async_engine(URL, poolclass=GuardedPool).sync_engine.pool
    assert pool.guard == Guard()
    assert pool.name.split("#")[0] == "h:5433/shop"


def test_password_is_nowhere():
    """Neither the name nor the repr of a pool shows the password."""
    pool = create_async_engine(URL, poolclass=GuardedPool).sync_engine.pool
    assert "secret" not in pool.name + repr(pool) + str(pool.snapshot()) + repr(pool.snapshot())


def test_options_by_keyword():
    """`guard=Guard(...)` and SQLAlchemy's own pool options are keywords of `create_async_engine`."""
    guard = Guard(name="by-keyword", hold_warning=2, max_waiting=7)
    pool = pool_of(engine(pool=GuardedPool, guard=guard, pool_size=3, max_overflow=1, pool_timeout=4))
    assert pool.guard is guard
    assert (pool.size(), pool._slots.limit, pool.timeout()) == (3, 4, 4)


async def test_options_survive_dispose():
    """Two disposals later the options are what they were."""
    db = engine(guard=Guard(name="survivor", hold_warning=2, capture="stack"))
    for _ in range(2):
        await db.dispose()
    pool = pool_of(db)
    assert (pool.name, pool.guard.hold_warning, pool.guard.capture) == ("survivor", 2.0, "stack")


def test_options_by_configure():
    """`GuardedPool.configure(...)` makes a poolclass with other defaults, and can be repeated."""
    kind = GuardedPool.configure(hold_warning="2.5").configure(max_waiting=3)
    assert issubclass(kind, GuardedPool)
    assert kind.__name__ == "GuardedPool"
    pool = pool_of(engine(pool=kind))
    assert (pool.guard.hold_warning, pool.guard.max_waiting) == (2.5, 3)
    assert GuardedPool.default_guard == Guard()


def test_explicit_guard_wins_over_configure():
    """A `guard` given to the engine replaces the defaults of the class as a whole."""
    pool = pool_of(engine(pool=TimedPool.configure(hold_warning=9, max_waiting=1), guard=Guard(hold_warning=3)))
    assert (pool.guard.hold_warning, pool.guard.max_waiting) == (3.0, None)


def test_options_by_mapping():
    """A mapping of options goes on top of the defaults of the class."""
    pool = pool_of(engine(pool=TimedPool.configure(hold_warning=9), guard={"max_waiting": "4"}))
    assert (pool.guard.hold_warning, pool.guard.max_waiting) == (9.0, 4)


def test_options_from_config():
    """`async_engine_from_config` brings text for SQLAlchemy's options, and a class with its own defaults for ours."""
    config = {"sqlalchemy.url": URL, "sqlalchemy.pool_size": "3", "sqlalchemy.max_overflow": "2", "sqlalchemy.pool_timeout": "4"}
    db = async_engine_from_config(config, poolclass=GuardedPool.configure(hold_warning="7", telemetry="off"))
    pool = db.sync_engine.pool
    assert (pool.size(), pool._slots.limit, pool.timeout()) == (3, 5, 4)
    assert (pool.guard.hold_warning, pool.guard.telemetry) == (7.0, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hold_warning": -1}, ["hold_warning", "-1", "above 0"]),
        ({"max_waiting": "many"}, ["max_waiting", "'many'", "whole number"]),
        ({"hold_warnin": 1}, ["'hold_warnin'", "hold_warning", "max_waiting"]),
    ],
)
def test_wrong_options_by_configure(options, words):
    """A wrong option is refused when the class is made, in words that name option, value and what is allowed."""
    with pytest.raises(ValueError, match="allowed") as caught:
        GuardedPool.configure(**options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("guard", [5, "strict", Guard, object()])
def test_wrong_guard(guard):
    """What is no Guard is refused when the engine is made, with its value and what is allowed."""
    with pytest.raises(ValueError, match="allowed") as caught:
        engine(guard=guard)
    assert repr(guard) in str(caught.value)


def test_unknown_keyword_is_refused_by_sqlalchemy():
    """A misspelt keyword of the engine is refused by name, as ever."""
    with pytest.raises(TypeError, match="gaurd"):
        engine(gaurd=Guard())


def test_sync_engine_is_refused():
    """A GuardedPool is for asyncio engines; SQLAlchemy says so."""
    with pytest.raises(ArgumentError, match="asyncio"):
        create_engine("sqlite://", poolclass=GuardedPool).connect()


def test_entry_points_are_declared():
    """The project declares the SQLAlchemy plugin, the pytest plugin and the command, and each can be imported."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    assert project["entry-points"]["sqlalchemy.plugins"] == {"poolguard": "sqla_poolguard.plugin:PoolguardPlugin"}
    assert project["entry-points"]["pytest11"] == {"poolguard": "sqla_poolguard.pytest_plugin"}
    assert project["scripts"] == {"poolguard": "sqla_poolguard.__main__:main"}
    assert callable(plugin.PoolguardPlugin)


async def test_options_by_url(poolguard_plugin):
    """`?plugin=poolguard&poolguard_...` switches the pool on; the options survive `dispose()`; the driver sees none of it."""
    db = create_async_engine(f"{URL}?plugin=poolguard&poolguard_hold_warning=2&poolguard_name=by-url&application_name=x")
    pool = db.sync_engine.pool
    assert isinstance(pool, GuardedPool)
    assert (pool.name, pool.guard.hold_warning) == ("by-url", 2.0)
    assert dict(db.url.query) == {"application_name": "x"}
    await db.dispose()
    assert db.sync_engine.pool is not pool
    assert (db.sync_engine.pool.name, db.sync_engine.pool.guard.hold_warning) == ("by-url", 2.0)


def test_url_goes_on_top_of_a_guard(poolguard_plugin):
    """What the URL names wins; the rest comes from the guard in the code."""
    db = create_async_engine(f"{URL}?plugin=poolguard&poolguard_hold_warning=2", guard=Guard(max_waiting=3, hold_warning=9))
    guard = db.sync_engine.pool.guard
    assert (guard.hold_warning, guard.max_waiting) == (2.0, 3)


def test_url_goes_on_top_of_a_configured_class(poolguard_plugin):
    """A poolclass of ours is kept, with its defaults."""
    kind = GuardedPool.configure(max_waiting=3)
    db = create_async_engine(f"{URL}?plugin=poolguard&poolguard_hold_warning=2", poolclass=kind)
    assert type(db.sync_engine.pool) is kind
    assert (db.sync_engine.pool.guard.hold_warning, db.sync_engine.pool.guard.max_waiting) == (2.0, 3)


def test_plugin_without_options(poolguard_plugin):
    """The plugin alone brings a GuardedPool with the defaults."""
    assert create_async_engine(f"{URL}?plugin=poolguard").sync_engine.pool.guard == Guard()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("poolguard_hold_warnin=2", ["hold_warnin", "hold_warning"]),
        ("poolguard_hold_warning=soon", ["hold_warning", "soon", "seconds"]),
        ("poolguard_capture=everything", ["capture", "everything", "stack"]),
        ("poolguard_hold_warning=1&poolguard_hold_warning=2", ["poolguard_hold_warning", "once"]),
        ("poolguard_observers=me", ["observers", "me"]),
    ],
)
def test_wrong_options_by_url(poolguard_plugin, query, words):
    """A wrong option in the URL is a ValueError that names it, its value and what is allowed."""
    with pytest.raises(ValueError, match="allowed") as caught:
        create_async_engine(f"{URL}?plugin=poolguard&{query}")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_plugin_and_another_poolclass_contradict(poolguard_plugin):
    """The plugin does not silently replace a poolclass that the code asks for."""
    with pytest.raises(ValueError, match="NullPool"):
        create_async_engine(f"{URL}?plugin=poolguard", poolclass=NullPool)


def test_other_engines_are_not_affected(poolguard_plugin):
    """An engine without the plugin keeps SQLAlchemy's own pool."""
    create_async_engine(f"{URL}?plugin=poolguard")
    assert type(create_async_engine(URL).sync_engine.pool) is AsyncAdaptedQueuePool


def test_observer_instances_are_wanted():
    """A class, text, or something that only looks like an observer is refused by name."""

    class Half:
        def granted(self, holder):
            pass

    for wrong in (Observer, Half(), "me"):
        with pytest.raises(ValueError, match="observers"):
            Guard(observers=(wrong,))


def test_making_a_pool_warns_of_nothing():
    """Making an engine raises no warning of any kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine(guard=Guard(hold_warning=1))


def test_url_options_on_top_of_a_mapping(poolguard_plugin):
    """The URL and a mapping of options go together; what is neither guard nor mapping is refused by name."""
    both = create_async_engine(f"{URL}?plugin=poolguard&poolguard_hold_warning=2", guard={"name": "mapped"}).sync_engine.pool
    assert (both.guard.name, both.guard.hold_warning) == ("mapped", 2.0)
    with pytest.raises(ValueError, match="guard='x' is not allowed"):
        create_async_engine(f"{URL}?plugin=poolguard&poolguard_hold_warning=2", guard="x")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("pool_size", "5"),
        ("pool_size", None),
        ("pool_size", -1),
        ("max_overflow", 1.5),
        ("pool_timeout", "3"),
        ("pool_timeout", float("nan")),
        ("pool_recycle", "3600"),
        ("pool_recycle", None),
        ("pool_recycle", float("nan")),
        ("pool_use_lifo", "no"),
        ("pool_pre_ping", "no"),
    ],
)
def test_wrong_arguments_of_the_stock_pool(argument, value):
    """An argument that SQLAlchemy's pool has too is checked as well, by name, before anything is made."""
    with pytest.raises(ValueError, match=f"{argument}={value!r} is not allowed; allowed: "):
        create_async_engine(URL, poolclass=GuardedPool, **{argument: value})


@pytest.mark.parametrize("max_overflow", [-1, -5])
async def test_no_limit(max_overflow):
    """As in SQLAlchemy, any negative `max_overflow` means that there is no limit."""
    db = engine(pool_size=1, max_overflow=max_overflow)
    async with all_out(db, 20):
        assert pool_of(db).checkedout() == 20
    at_rest(db, idle=1)
