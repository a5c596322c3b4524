"""
Make tests fail that leave, lose or wrongly hold a connection, and name the line.

pytest loads it in every run, so it imports nothing but the standard library, until somebody imports `GuardedPool`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from sqla_poolguard import _arrival
from sqla_poolguard._testing.policy import Policy, read_count, read_mode, read_seconds

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from sqla_poolguard._testing.proctor import Proctor
    from sqla_poolguard._testing.tally import Tally
    from sqla_poolguard._testing.watching import ConnectionWatch

__all__ = [
    "poolguard",
    "pytest_addoption",
    "pytest_configure",
    "pytest_load_initial_conftests",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]


def _read_calls(option: str, value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    from sqla_poolguard._testing.calls import read_calls  # noqa: PLC0415 - few want it

    return read_calls(option, value)


_OPTIONS = {
    "poolguard": ("MODE", "what a test that leaks a connection does: strict (it fails), warn, off", "strict", read_mode),
    "poolguard_quiesce": ("SECONDS", "what background tasks have to give connections back when a test ends", "1", read_seconds),
    "poolguard_max_foreign_await": (
        "SECONDS",
        "the longest that a line may await something else than the database while it has a connection",
        "none",
        read_seconds,
    ),
    "poolguard_forbidden_calls": (
        "CALLS",
        "calls that must not be made while a connection is held: usual, or module:name",
        [],
        _read_calls,
    ),
    "poolguard_max_hold": ("SECONDS", "the longest that a test may have a connection out", "none", read_seconds),
    "poolguard_max_nesting": ("COUNT", "the most connections of one pool that a task may have at one time", "none", read_count),
}
"""Option, as it stands in the ini file: its value's name, what it is for, its default, how it is read."""

_FIELDS = {"poolguard": "mode"}
_MARKER = "poolguard(allow_hold='…', max_await=0.1, expect_leak=True): why this test may hold connections; for how many seconds it may await something else meanwhile; that it must leak one"


_HAS_UNIONS = pytest.version_tuple >= (9, 2)
"""Whether an option's value may be a number as well as a string, in the native table `[tool.pytest]`."""


class Desk:
    """What the plugin keeps of one run of pytest; there may be runs inside of runs."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.proctor: Proctor | None = None
        self.session: pytest.Session | None = None
        """The session, while nobody has imported the pool."""
        self.begun: list[tuple[pytest.FixtureDef[Any], pytest.FixtureRequest]] = []
        """The fixtures that are being set up, the outermost first."""
        self.done: dict[pytest.FixtureDef[Any], None] = {}
        """The wide ones that were; some may have ended."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Note whose fixtures there will be."""
        self.session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Note what is being set up: it may import the pool. From then on the proctor notes it."""
        self.begun.append((fixturedef, request))
        try:
            return (yield)
        finally:
            self.begun.pop()
            if self.proctor is not None:
                self.proctor.fixtures.end()
            elif fixturedef.scope != "function":
                self.done[fixturedef] = None

    @functools.cached_property
    def tally(self) -> Tally:
        """Counts what is found."""
        from sqla_poolguard._testing.tally import Tally  # noqa: PLC0415 - most runs find nothing

        return Tally()

    @property
    def has_counted(self) -> bool:
        """Whether anything may have been found."""
        return "tally" in vars(self)


_DESK = pytest.StashKey[Desk]()


@pytest.fixture
def poolguard() -> Iterator[ConnectionWatch]:
    """Watch the connections that are checked out from here on: `leases`, `snapshot()`, `assert_no_leaks()` and more."""
    from sqla_poolguard._testing.watching import ConnectionWatch  # noqa: PLC0415 - it imports SQLAlchemy

    with ConnectionWatch() as watch:
        yield watch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options, on the command line and in the ini file."""
    group = parser.getgroup("poolguard", "connections of GuardedPool (sqla-poolguard)")
    for option, (metavar, what, default, read) in _OPTIONS.items():
        told = f"{what}; default: {default or 'none'}"
        if isinstance(default, list):
            parser.addini(option, told, type="linelist", default=default)
        elif _HAS_UNIONS and read is not read_mode:
            parser.addini(option, told, type=str | int | float, default=default)
        else:
            parser.addini(option, told, default=default)
        group.addoption(f"--{option.replace('_', '-')}", metavar=metavar, default=None, help=told)
    group.addoption(
        "--poolguard-all", action="store_true", help="let every asyncio engine with SQLAlchemy's default pool use GuardedPool"
    )
    group.addoption("--poolguard-ledger", action="store_true", help="tell what the time of every test's connections went for")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before the first conftest.py makes an engine."""
    _begin(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Begin, if the plugin was not there before."""
    config.addinivalue_line("markers", _MARKER)
    _begin(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave everything as it was."""
    desk = config.stash.get(_DESK, None)
    if desk is not None and desk.proctor is not None:
        desk.proctor.leave()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, Any, Any]:
    """Let a worker of pytest-xdist hand over what it has counted, when pytest has ended the fixtures that were left."""
    try:
        return (yield)
    finally:
        output = getattr(session.config, "workeroutput", None)
        if output is not None and session.config.stash[_DESK].has_counted:
            from sqla_poolguard._testing.late import to_be_handed_over  # noqa: PLC0415 - most runs find nothing

            tally = session.config.stash[_DESK].tally
            output["poolguard"] = [tally.rows(), tally.ledger, to_be_handed_over(session.config)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has counted."""
    counted = (getattr(node, "workeroutput", None) or {}).get("poolguard")
    if counted is not None:
        from sqla_poolguard._testing.late import tell_late  # noqa: PLC0415 - most runs find nothing

        rows, ledger, news = counted
        node.config.stash[_DESK].tally.merge(rows, ledger)
        tell_late(node.config, news, node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the lines that wasted connections, the worst first."""
    if not config.stash[_DESK].has_counted:
        return
    tally = config.stash[_DESK].tally
    for title, lines in (("ledger of connections", tally.ledger), ("connections wasted", tally.lines())):
        if lines:
            terminalreporter.section(f"{title} (sqla-poolguard)")
            for line in lines:
                terminalreporter.write_line(line)


def _begin(config: pytest.Config) -> None:
    """
    Read the options, and wait for the pool.

    Raises:
        pytest.UsageError: an option has a value that is not allowed.
    """
    if _DESK in config.stash:
        return
    desk = config.stash[_DESK] = Desk(_policy(config))
    _verify_switches(config, desk.policy)
    if desk.policy.mode == "off":
        return
    if config.known_args_namespace.poolguard_all:
        from sqla_poolguard._testing.everywhere import guard_everything  # noqa: PLC0415 - it imports SQLAlchemy

        config.add_cleanup(guard_everything())

    def stand_by() -> None:
        from sqla_poolguard._testing.proctor import Proctor  # noqa: PLC0415 - it imports SQLAlchemy

        desk.proctor = Proctor(desk.policy, desk.tally)
        desk.proctor.enter()
        config.pluginmanager.unregister(desk)
        config.pluginmanager.register(desk.proctor, "poolguard-proctor")
        if desk.session is not None:
            desk.proctor.take_over(desk.session, desk.done, desk.begun)
            desk.done.clear()

    config.pluginmanager.register(desk, "poolguard-desk")
    _arrival.when_there(stand_by)
    config.add_cleanup(lambda: _arrival.forget(stand_by))


def _verify_switches(config: pytest.Config, policy: Policy) -> None:
    given = config.known_args_namespace
    useless = [name for name in ("all", "ledger") if getattr(given, f"poolguard_{name}")]
    if policy.mode == "off" and useless:
        off = "--poolguard=off" if given.poolguard is not None else "poolguard = off"
        msg = f"--poolguard-{useless[0]} is not allowed together with {off}, with which nobody looks: leave one of them out"
        raise pytest.UsageError(msg)


def _policy(config: pytest.Config) -> Policy:
    values: dict[str, Any] = {}
    for option, (*_, read) in _OPTIONS.items():
        given = getattr(config.known_args_namespace, option, None)
        named = f"--{option.replace('_', '-')}" if given is not None else option
        try:
            value = read(named, given if given is not None else config.getini(option))
        except TypeError as error:  # pytest 9.0 and 9.1, of the native table
            msg = f"{error}; with this pytest, write it in quotes there"
            raise pytest.UsageError(msg) from None
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        if option == "poolguard_quiesce":
            value = value or 0.0
        values[_FIELDS.get(option, option.removeprefix("poolguard_"))] = value
    return Policy(**values, ledger=config.known_args_namespace.poolguard_ledger)
