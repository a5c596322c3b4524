"""Every option of a GuardedPool, its default and its check. It knows nothing of pools or SQLAlchemy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from sqla_poolguard._observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Guard"]

Capture = Literal["site", "stack", "off"]
Deadlock = Literal["fail", "warn"]
Reclaim = Literal["never", "orphaned"]

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_NONE: Final = frozenset({"none", ""})


@dataclass(frozen=True, slots=True)
class Guard:
    """
    What a `GuardedPool` watches for and how it speaks.

    Seconds are floats.
    Text is accepted and read as the option's type, so that a URL or a configuration file can set it;
    but not for `observers`, `meter_provider` and `tracer_provider`, which are objects.

    Raises:
        ValueError: an option has a value that is not allowed; the message names the option, the value and what is allowed.
    """

    name: str | None = None
    """The pool's name in logs, errors and telemetry; if None, host, port and database of the engine's URL."""

    hold_warning: float | None = 5.0
    """Seconds after which a lease is reported as overdue, once; None means never."""

    await_warning: float | None = 1.0
    """Seconds for which a connection may be idle while its holder awaits something that is not the database; None means for ever."""

    deadlock: Deadlock = "fail"
    """What to do when every holder waits for this very pool: "fail" one waiter at once, or only "warn"."""

    reclaim: Reclaim = "never"
    """Take back a connection whose task has finished ("orphaned"), or leave it ("never")."""

    slow_statement: float | None = None
    """
    Seconds from which a statement is reported as slow; None means never, and costs nothing.

    It is the time until the database has answered; rows that a server-side cursor fetches later are not in it.
    """

    statement_text: bool = False
    """Show the text of a slow statement, without its parameters."""

    fail_fast: bool | Literal["observe"] = "observe"
    """
    Turn away at once whom the pool could not serve within `max_wait`, by the holds that it measures.

    True does; "observe" only counts whom it would have turned away (`snapshot().would_reject`); False is off.
    """

    max_wait: float | None = None
    """
    Seconds that anybody may wait, and the burst that is absorbed, with `fail_fast`.

    None means one second, or `pool_timeout` where that is less.
    """

    max_waiting: int | None = None
    """Requests that may wait at one time; the next one gets `CheckoutRejected`; None means no limit."""

    breaker: bool = True
    """
    Once a connect has failed, tie no request to one any more, and find out in the background when the database is back.

    While no connection lives, requests wait for it as long as `max_wait` (one second), then get `DatabaseUnavailable` at once.
    """

    connect_limit: int | None = 3
    """Connections that may be opened at one time; None means no limit."""

    overflow_linger: float = 0.0
    """Seconds for which an idle connection above `pool_size` is kept, in case it is wanted again soon; 0 means to close it, as SQLAlchemy does."""

    ping_after: float | None = None
    """Seconds of idleness after which a connection is pinged before it is handed out, in one round trip on asyncpg; None means never."""

    processes: int | None = None
    """Processes that have such an engine at the worst moment, for the line that says whether they fit the server; None means WEB_CONCURRENCY."""

    inspect: bool = False
    """Let `poolguard top` look into this process, through a socket that only its own user can open."""

    capture: Capture = "site"
    """What to remember of the caller, its line ("site"), its callers too ("stack") or nothing ("off")."""

    telemetry: bool = True
    """Offer metrics and spans to OpenTelemetry; costs next to nothing while no SDK is configured. False also where providers are given."""

    meter_provider: MeterProvider | None = None
    """Whose meter measures the pool; None means the application's global one, even if that is set later."""

    tracer_provider: TracerProvider | None = None
    """Whose tracer draws the spans; None means the application's global one, even if that is set later."""

    observers: tuple[Observer, ...] = ()
    """Your own observers; see `sqla_poolguard.Observer`."""

    def __post_init__(self) -> None:
        for option, check in _CHECKS.items():
            object.__setattr__(self, option, check(option, getattr(self, option)))
        if self.reclaim != "never" and self.await_warning is None:
            option, allowed = "reclaim", "'never' where await_warning is None, since nobody looks then"
            raise _refuse(option, self.reclaim, allowed)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], base: Guard | None = None) -> Guard:
        """
        Build a guard from a mapping, on top of another guard.

        Args:
            options: option names and values; text is coerced.
            base: where the other options come from; default: the defaults.

        Raises:
            ValueError: an unknown option, or a value that is not allowed.
        """
        known = [f.name for f in fields(cls)]
        for option in options:
            if option not in known:
                msg = f"unknown Guard option {option!r}; allowed: {', '.join(known)}"
                raise ValueError(msg)
        merged = {} if base is None else {name: getattr(base, name) for name in known}
        return cls(**{**merged, **options})

    @classmethod
    def read(cls, value: object, default: Guard) -> Guard:
        """
        Read what was given as `guard`: a guard, a mapping of options on top of the default, or None.

        Raises:
            ValueError: it is none of these, or an option in it is not allowed.
        """
        if value is None:
            return default
        if isinstance(value, Guard):
            return value
        if isinstance(value, Mapping):
            return cls.from_options(value, base=default)
        msg = f"guard={value!r} is not allowed; allowed: None, a sqla_poolguard.Guard, or a mapping of its options"
        raise ValueError(msg)


def _refuse(option: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"Guard option {option}={value!r} is not allowed; allowed: {allowed}")


def _text(option: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise _refuse(option, value, "None or a non-empty text")


def _number(option: str, value: object, allowed: str) -> float | None:
    if isinstance(value, str):
        if value.strip().lower() in _NONE:
            return None
        try:
            value = float(value)
        except ValueError:
            raise _refuse(option, value, allowed) from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(option, value, allowed)
    try:
        number = float(value)
    except OverflowError:
        raise _refuse(option, value, allowed) from None
    if math.isnan(number):
        raise _refuse(option, value, allowed)
    return number


def _seconds(option: str, value: object) -> float | None:
    allowed = "None or a number of seconds above 0"
    seconds = _number(option, value, allowed)
    if seconds is not None and not 0 < seconds < math.inf:
        raise _refuse(option, value, allowed)
    return seconds


def _span(option: str, value: object) -> float:
    allowed = "a number of seconds, 0 or more"
    seconds = _number(option, value, allowed)
    if seconds is None or not 0 <= seconds < math.inf:
        raise _refuse(option, value, allowed)
    return seconds


def _count(least: int) -> Callable[[str, object], object]:
    def check(option: str, value: object) -> int | None:
        allowed = f"None or a whole number, {least} or more"
        number = _number(option, value, allowed)
        if number is None:
            return None
        if number < least or not number.is_integer():
            raise _refuse(option, value, allowed)
        return int(number)

    return check


def _choice(*allowed: str) -> Callable[[str, object], object]:
    def check(option: str, value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        named = [repr(one) for one in allowed]
        raise _refuse(option, value, f"{', '.join(named[:-1])} or {named[-1]}")

    return check


def _fail_fast(option: str, value: object) -> bool | str:
    if isinstance(value, str) and value.strip().lower() == "observe":
        return "observe"
    try:
        return _switch(option, value)
    except ValueError:
        raise _refuse(option, value, "True, False or 'observe'") from None


def _switch(option: str, value: object) -> bool:
    if isinstance(value, str):
        if value.strip().lower() in _TRUE:
            return True
        if value.strip().lower() in _FALSE:
            return False
    if isinstance(value, bool):
        return value
    raise _refuse(option, value, "True or False")


def _provider(method: str, kind: str) -> Callable[[str, object], object]:
    def check(option: str, value: object) -> object:
        if value is None or (not isinstance(value, type) and callable(getattr(value, method, None))):
            return value
        raise _refuse(option, value, f"None or an instance of opentelemetry.{kind}; it cannot be given as text")

    return check


def _observers(option: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse(option, value, "a sequence of sqla_poolguard.Observer instances")
    observers = tuple(value)
    for observer in observers:
        if not isinstance(observer, Observer):
            raise _refuse(option, observer, "instances of a subclass of sqla_poolguard.Observer")
    return observers


_CHECKS: Final[dict[str, Callable[[str, object], object]]] = {
    "name": _text,
    "hold_warning": _seconds,
    "await_warning": _seconds,
    "deadlock": _choice("fail", "warn"),
    "reclaim": _choice("never", "orphaned"),
    "slow_statement": _seconds,
    "statement_text": _switch,
    "fail_fast": _fail_fast,
    "max_wait": _seconds,
    "max_waiting": _count(0),
    "breaker": _switch,
    "connect_limit": _count(1),
    "overflow_linger": _span,
    "ping_after": _seconds,
    "processes": _count(1),
    "inspect": _switch,
    "capture": _choice("site", "stack", "off"),
    "telemetry": _switch,
    "meter_provider": _provider("get_meter", "metrics.MeterProvider"),
    "tracer_provider": _provider("get_tracer", "trace.TracerProvider"),
    "observers": _observers,
}
