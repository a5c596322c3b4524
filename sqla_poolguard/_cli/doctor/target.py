"""What the doctor was asked to look at: an address, or a name in a module. Imports the module; connects to nothing."""

from __future__ import annotations

import gc
import importlib
import math
import os
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy.exc
from sqlalchemy import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import sessionmaker

from sqla_poolguard._cli.doctor.libpq import KNOWN, translated
from sqla_poolguard._cli.doctor.trouble import DoctorError, hushed, said, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL

    from sqla_poolguard._cli.doctor.libpq import Parameters

__all__ = ["Target", "find"]

_WANTED: Final = "name what to examine: an address such as postgresql://user@host/database, or a name in a module such as myapp.database:engine"
_SCHEMES: Final = frozenset({"postgresql", "postgres"})
_POOL: Final = ("pool_size", "max_overflow", "pool_timeout", "pool_recycle")
_SWITCHES: Final = ("pool_pre_ping", "pool_use_lifo")
_ARGUMENTS: Final = ("statement_cache_size", "prepared_statement_cache_size", "command_timeout", "application_name")
_NUMBERS: Final = {
    "pool_size": ("a whole number, 0 or more", 0),
    "max_overflow": ("a whole number, -1 or more", -1),
    "pool_timeout": ("a number, 0 or more", 0),
    "pool_recycle": ("a whole number, -1 or more", -1),
    "statement_cache_size": ("a whole number, 0 or more", 0),
    "prepared_statement_cache_size": ("a whole number, 0 or more", 0),
    "command_timeout": ("a number above 0", 1e-9),
}
"""What each may be, and the least of it."""
_TRUE: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was found."""

    source: str
    """As it was asked for; "the DSN" for an address, which may hold a password."""
    engine: Engine | None
    """The engine that was asked about."""
    others: tuple[Engine, ...] = ()
    """Engines of PostgreSQL that the module has made besides."""
    apps: tuple[Any, ...] = ()
    """FastAPI applications that the module has made."""
    assumed: bool = False
    """Whether nobody said how the engine is set up."""
    elsewhere: Engine | None = None
    """Where to connect to instead of where the engine does."""
    unsaid: tuple[str, ...] = ()
    """What of the address was left out, a sentence each."""
    file: str | None = None
    """Of the module, as seen from here."""


def find(name: str, dsn: str | None, options: Mapping[str, str]) -> Target:
    """
    Find what was asked for.

    Args:
        name: an address, or `module:name`.
        dsn: where to connect to instead.
        options: of the engine, for an address.

    Raises:
        DoctorError: there is no such thing.
    """
    if "://" in name:
        if dsn is not None:
            msg = "--dsn is for an engine of a module; the address that was given is one already"
            raise DoctorError(msg)
        own, unsaid = _engine_of(name, options)
        return Target(source="the DSN", engine=own, assumed=not options, unsaid=unsaid)
    if options:
        msg = "--option is for an address; an engine of a module has its own options"
        raise DoctorError(msg)
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise DoctorError(f"{_WANTED}; what it got is {hushed(name)!r}")  # noqa: EM102 - one sentence
    before = _alive()
    imported = _imported(module)
    found = _look_up(imported, module, path)
    engine = _engine_in(found)
    made = _made_since(before)
    if sum(isinstance(one, Engine) for one in made) > 1:
        gc.collect()  # engines that are not used any more are none
        made = _made_since(before)
    live = [one for one in made if isinstance(one, Engine)]
    apps = [one for one in made if not isinstance(one, Engine)]
    if _is_application(found):
        apps = [found, *(app for app in apps if app is not found)]
    if engine is None and not any(app is found for app in apps):
        msg = f"{name} is a {type(found).__name__}; wanted is an engine, a sessionmaker with a bind, or a FastAPI application"
        raise DoctorError(msg)
    postgres = [one for one in live if one.dialect.name == "postgresql"]
    if engine is None:
        engine = postgres[0] if postgres else None
    elif engine.dialect.name != "postgresql":
        msg = f"{name} is an engine for {engine.dialect.name}; the doctor knows PostgreSQL only"
        raise DoctorError(msg)
    others = tuple(_with_pools_of_their_own(postgres, engine))
    elsewhere, unsaid = (None, ()) if dsn is None else _engine_of(dsn, {})
    file = getattr(imported, "__file__", None)
    return Target(
        source=name,
        engine=engine,
        others=others,
        apps=tuple(apps),
        elsewhere=elsewhere,
        unsaid=unsaid,
        file=file and shown(file),
    )


def _read(address: str) -> tuple[URL, Parameters]:
    """Read an address for SQLAlchemy and asyncpg, and its parameters."""
    try:
        url = make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        msg = f"{_WANTED}; what it got is no such address"
        raise DoctorError(msg) from None
    if url.drivername.partition("+")[0] not in _SCHEMES:
        msg = f"the doctor knows PostgreSQL only; the address begins with {url.drivername!r}"
        raise DoctorError(msg)
    parameters = translated(url.query)
    if parameters.unknown:
        names = " and ".join(map(repr, parameters.unknown))
        msg = f"the address has {names}, which no connection takes; libpq's parameters that are known are {', '.join(KNOWN)}"
        raise DoctorError(msg)
    return url.set(drivername="postgresql+asyncpg", query=parameters.query), parameters


def _engine_of(address: str, options: Mapping[str, str]) -> tuple[Engine, tuple[str, ...]]:
    """Make an engine of an address, as the options say; it never connects. And say what of the address it leaves out."""
    url, parameters = _read(address)
    given: dict[str, Any] = {}
    arguments: dict[str, Any] = dict(parameters.arguments)
    for name, value in options.items():
        if name in _POOL:
            given[name] = _number(name, value)
        elif name in _SWITCHES:
            given[name] = _switch(name, value)
        elif name == "application_name":
            arguments["server_settings"] = {**arguments.get("server_settings", {}), name: value}
        elif name in _ARGUMENTS:
            arguments[name] = _number(name, value)
        else:
            msg = f"--option {name}={value}: allowed are {', '.join((*_POOL, *_SWITCHES, *_ARGUMENTS))}"
            raise DoctorError(msg)
    try:
        engine = create_async_engine(url, connect_args=arguments, **given).sync_engine
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, TypeError, ImportError) as error:
        raise DoctorError(f"no engine can be made of these options: {said(error, _secrets(url))}") from None  # noqa: EM102
    left_out = f"what {', '.join(parameters.left_out)} in the address would do: it is for libpq; the doctor connects with asyncpg"
    return engine, (left_out,) if parameters.left_out else ()


def _number(name: str, value: str) -> float:
    """Read a number, whole where it counts something."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    allowed, least = _NUMBERS[name]
    if not least <= number < math.inf or (allowed.startswith("a whole") and not number.is_integer()):
        msg = f"--option {name}={value}: allowed is {allowed}"
        raise DoctorError(msg)
    return int(number) if number.is_integer() else number


def _switch(name: str, value: str) -> bool:
    try:
        return _TRUE[value.lower()]
    except KeyError:
        msg = f"--option {name}={value}: allowed are true and false"
        raise DoctorError(msg) from None


def _secrets(url: URL) -> list[str]:
    return [str(password) for password in (url.password, url.query.get("password")) if password]


def _imported(module: str) -> Any:
    """Import the module as the application's server would: from the current folder, too."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of a report
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            msg = f"there is no module {error.name!r} here ({here}); run this where the application is run"
        else:
            msg = f"importing {module} failed: the package {error.name!r} is not installed beside poolguard"
        raise DoctorError(msg) from None
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        msg = f"importing {module} failed: {type(error).__name__}: {said(error)} ({place.filename}:{place.lineno})"
        raise DoctorError(msg) from None


def _look_up(module: Any, name: str, path: str) -> Any:
    """Follow a dotted path in a module; `()` at its end calls what is there."""
    call = path.endswith("()")
    found = module
    for part in path.removesuffix("()").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = sorted(key for key, value in vars(module).items() if _engine_in(value) is not None)
            hint = f"; engines there are: {', '.join(near)}" if near else ""
            msg = f"{name} has no {path!r}{hint}"
            raise DoctorError(msg) from None
    if not call:
        return found
    try:
        with redirect_stdout(sys.stderr):
            return found()
    except Exception as error:  # noqa: BLE001 - the application's own
        msg = f"{name}:{path} failed: {type(error).__name__}: {said(error)}"
        raise DoctorError(msg) from None


def _engine_in(found: Any) -> Engine | None:
    """Give the engine that something is, or is bound to."""
    if isinstance(found, AsyncEngine):
        return found.sync_engine
    if isinstance(found, Engine):
        return found
    factory = getattr(found, "session_factory", found)
    if isinstance(factory, sessionmaker) or type(factory).__name__ == "async_sessionmaker":
        bind = factory.kw.get("bind")
        return None if bind is None else _engine_in(bind)
    return None


def _with_pools_of_their_own(engines: list[Engine], asked: Engine | None) -> Iterator[Engine]:
    """Leave out what leads to a pool that was given already: `engine.execution_options()` makes an engine that shares it."""
    seen = [] if asked is None else [asked.pool]
    for one in engines:
        if not any(one.pool is pool for pool in seen):
            seen.append(one.pool)
            yield one


def _is_application(found: Any) -> bool:
    kind = getattr(sys.modules.get("fastapi"), "FastAPI", None)
    return kind is not None and isinstance(found, kind)


def _made_since(before: list[Any]) -> list[Any]:
    return [one for one in _alive() if not any(one is other for other in before)]


def _alive() -> list[Any]:
    """Give all engines and FastAPI applications of the process."""
    kinds = (Engine, getattr(sys.modules.get("fastapi"), "FastAPI", Engine))
    everything = gc.get_objects()
    wanted = {kind for kind in set(map(type, everything)) if issubclass(kind, kinds)}  # isinstance() would ask proxies
    return [one for one in everything if type(one) in wanted] if wanted else []
