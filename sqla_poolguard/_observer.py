"""What an observer of a pool is told. It is a word for those who write one; it knows of no pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqla_poolguard._facts import Checkout, Holder, Opened, Rejection, Wait
    from sqla_poolguard._finding import Finding, SlowStatement
    from sqla_poolguard._overload import Overload

__all__ = ["Observer"]


class Observer:
    """
    Be told what happens in a pool.

    Subclass it and override what you want to hear of; what you do not override costs nothing.
    `granted` and `ended` are called for every checkout: overriding them puts your code on the hot path.
    Methods are called synchronously, never awaited, and must not use the pool.
    What they raise is logged and goes no further.
    """

    __slots__ = ()

    waited_from: float = 0.0
    """
    Seconds from which a wait is told to `waited`; shorter ones cost nothing. 0 tells all, a connect without any queue included.

    It is read once, when the engine is made.
    """

    def granted(self, holder: Holder) -> None:
        """A checkout got its connection."""

    def ended(self, checkout: Checkout) -> None:
        """A lease ended, in whatever way."""

    def waited(self, wait: Wait) -> None:
        """A checkout that could not be served at once got its connection."""

    def rejected(self, rejection: Rejection) -> None:
        """A checkout got no connection."""

    def overloaded(self, overload: Overload) -> None:
        """Requests are turned away to keep the queue short, or would be (`fail_fast`); said once a minute."""

    def opened(self, opened: Opened) -> None:
        """A physical connection was opened."""

    def overdue(self, holder: Holder) -> None:
        """A lease is held longer than `hold_warning`; said once per lease."""

    def found(self, finding: Finding) -> None:
        """
        Something is wrong with a lease, and it is named: see `FindingKind`.

        Said once for the lines concerned, and again after ten minutes if it is still so, with a count.
        """

    def slow(self, statement: SlowStatement) -> None:
        """A statement took `slow_statement` seconds or more."""

    def returned(self, checkout: Checkout) -> None:
        """A lease that was reported, as overdue or by `found`, ended after all, in another way than by leaking."""

    def leaked(self, checkout: Checkout) -> None:
        """A connection was never given back: the garbage collector found it."""
