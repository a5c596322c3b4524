"""One connection's time in somebody's hands, as a test run sees it, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqla_poolguard._callsite import site_of, stack_of
from sqla_poolguard._holds import declared_here
from sqla_poolguard._testing.ending import is_loop_ending

if TYPE_CHECKING:
    import weakref
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Iterable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._facts import Ending, Site
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._testing.account import Account
    from sqla_poolguard._testing.faults import Fault
    from sqla_poolguard._testing.uses import Uses

__all__ = ["Owner", "Stay"]


class Owner:
    """Whose a connection is: a test's, a fixture's that outlives the test, or the run's."""

    place: Any = None
    """The class or the module in whose attributes it may keep something, as `setup_class` does."""
    sessions: Iterable[Any] = ()
    """SQLAlchemy's sessions that it has made, wherever it has put them."""
    has_ended = False
    """Whether it was judged: what comes later is nobody's fault that can still be told."""
    has_failed = False
    """Whether it failed by itself, and is not to be accused beside that."""

    def __init__(self, name: str, fixture: str | None = None, scope: str | None = None) -> None:
        """
        Begin to own.

        Args:
            name: the test's node id; for a fixture, that of the test in which it was set up.
            fixture: its name, of one that outlives a test.
            scope: its scope.
        """
        self.name = name
        self.fixture = fixture
        self.scope = scope
        self.stays: dict[Stay, None] = {}
        """Its leases, in the order of the checkouts; of those that have ended well, as many as are asked for."""

    def __str__(self) -> str:
        return f"fixture {self.fixture!r} ({self.scope} scope)" if self.fixture is not None else self.name


class Stay:
    """One lease, from the checkout to its end. It keeps neither the connection nor the task alive."""

    # what is usual is the class's: a stay is made for every checkout of a test run
    ended_at: float | None = None
    ending: Ending | None = None
    in_database: float | None = None
    """Seconds of it spent in the database; None if nobody looked."""
    elsewhere: float | None = None
    """Seconds of it spent awaiting something else; None if nobody looked."""
    wasted_at: tuple[Site | None, str | None] = (None, None)
    """The line that took most of them, and what it awaited."""
    is_told = False
    """Whether somebody was blamed for it, or excused."""
    account: Account | None = None
    """What its time went for, in exact mode."""
    uses: Uses | None = None
    """What it is asked, in exact mode, if its driver does not tell."""
    suspicion: Fault | None = None
    """What its test is to be told of it, unless a fixture ends the task that has it."""
    taken_from: str | None = None
    """The test that has checked it out, if a fixture turned out to keep it."""
    is_lent = False
    """Whether that fixture has made the session, too: if it does not close it, that is not the test's fault."""
    is_later = False
    """Whether it was checked out not by its owner's own code, but by what that has begun."""
    is_cut_off = False
    """Whether it came back, a suspect, only because its event loop ended."""
    _charged: float | None = None

    def __init__(self, record: GuardedRecord, place: Place | None, owner: Owner, fixture: str | None) -> None:
        """
        Begin.

        Args:
            record: what has just been checked out.
            place: who asked, callers included.
            owner: whose it is.
            fixture: the fixture that was being set up, if one was.
        """
        lease = record.lease
        self.record: GuardedRecord | None = record
        """What is out; None when it is not any more."""
        self.pool = record.guarded._watch.reporter.name
        self.place = place
        self.owner = owner
        self.fixture = fixture
        self.task: weakref.ref[Task[Any]] | None = lease.task
        task = lease.task() if lease.task is not None else None
        self.task_name = task.get_name() if task is not None else None
        self.declared = declared_here()
        """The reason of the `allow_hold` in which it was checked out, if it was in one."""
        self.granted_at: float = lease.granted_at or 0.0
        self._clock = record.guarded._clock

    def __repr__(self) -> str:
        return f"<Stay of {self.pool!r} at {self.site}, {self.held:.3f} s, {self.ending or 'out'}>"

    @property
    def is_out(self) -> bool:
        """Whether the connection has not come back."""
        return self.ended_at is None

    @property
    def held(self) -> float:
        """Seconds it was out; if it is, until now."""
        return max((self._clock() if self.ended_at is None else self.ended_at) - self.granted_at, 0.0)

    @property
    def charged(self) -> float:
        """Seconds it was out in the test itself; what its fixtures take to end does not count."""
        return self.held if self._charged is None else self._charged

    def stop_counting(self) -> None:
        """Note that the test's own code has ended."""
        if self.is_out and self._charged is None:
            self._charged = self.held
            if self.account is not None:
                self.account.close(self._clock())

    @property
    def is_fixtures(self) -> bool:
        """Whether a fixture has checked it out, or keeps it."""
        return self.fixture is not None or self.owner.fixture is not None

    def now(self) -> float:
        """Read the pool's clock, in seconds."""
        return self._clock()

    @property
    def site(self) -> Site | None:
        """Where it was checked out."""
        return site_of(self.place)

    @property
    def stack(self) -> tuple[Site, ...]:
        """The callers of the site, innermost first."""
        return stack_of(self.place)

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop of the connection, while it is out."""
        record = self.record
        return record.loop if record is not None else None

    @property
    def fairy(self) -> Any:
        """The pool's connection, as SQLAlchemy holds it; None if nobody does."""
        reference = self.record.fairy_ref if self.record is not None else None
        return reference() if reference is not None else None

    @property
    def holder(self) -> Task[Any] | None:
        """The task that checked it out, while it has not finished."""
        task = self.task() if self.task is not None else None
        return task if task is not None and not task.done() else None

    def end(self, record: GuardedRecord, ending: Ending) -> None:
        """Note that it has ended; the garbage collector may call, at any instruction."""
        self.ended_at, self.ending, self.record = self._clock(), ending, None
        self.is_cut_off = self.suspicion is not None and is_loop_ending()
        if self.uses is not None:
            self.uses.end()
        streak, account = record.lease.streak, self.account
        if account is not None:
            account.end(self.ended_at)
            self.in_database, self.elsewhere = account.in_database, account.elsewhere
            self.wasted_at = next(((absence.site, absence.awaiting) for absence in account.absences), (None, None))
        elif streak is not None and streak.granted_at == self.granted_at:
            self.in_database, self.elsewhere, self.wasted_at = streak.in_database, streak.elsewhere, streak.worst()
