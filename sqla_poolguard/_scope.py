"""What applies to the code inside a `with`, and to the tasks that it creates: a chain in a context variable, the innermost first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from contextvars import ContextVar

__all__ = ["Scope", "enter", "leave"]

T = TypeVar("T")


class Scope(NamedTuple, Generic[T]):
    """
    A block that some code is inside of.

    Tokens of a context variable would not do: several tasks may be inside the same object's block, each in a context of its own,
    and an async generator may end in another context than it began in, or before a block that began later.
    """

    value: T
    by: object
    """The context manager."""
    around: Scope[T] | None


def enter(variable: ContextVar[Scope[T] | None], value: T, by: object) -> None:
    """Begin a block, in the running context."""
    variable.set(Scope(value, by, variable.get()))


def leave(variable: ContextVar[Scope[T] | None], by: object) -> None:
    """End the innermost block of a context manager; nothing happens in a context that is in none of its."""
    inside = variable.get()
    within: list[Scope[T]] = []
    while inside is not None:
        if inside.by is by:
            kept = inside.around
            for scope in reversed(within):
                kept = scope._replace(around=kept)
            variable.set(kept)
            return
        within.append(inside)
        inside = inside.around
