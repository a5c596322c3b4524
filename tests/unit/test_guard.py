"""Every option: what it takes, how it reads text, and what it says of what it does not take."""

from __future__ import annotations

import dataclasses
import math

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from sqla_poolguard import Guard, Observer

me = Observer()
meters, tracers = NoOpMeterProvider(), NoOpTracerProvider()

HUGE = 10**400
"""More than a float can hold."""

GOOD = [
    ("name", None, None),
    ("name", "orders", "orders"),
    ("hold_warning", None, None),
    ("hold_warning", 2, 2.0),
    ("hold_warning", 0.25, 0.25),
    ("hold_warning", "2.5", 2.5),
    ("hold_warning", "None", None),
    ("hold_warning", " none ", None),
    ("hold_warning", "", None),
    ("await_warning", "0.25", 0.25),
    ("await_warning", "none", None),
    ("deadlock", "fail", "fail"),
    ("deadlock", "warn", "warn"),
    ("reclaim", "never", "never"),
    ("reclaim", "orphaned", "orphaned"),
    ("slow_statement", "0.5", 0.5),
    ("statement_text", "yes", True),
    ("fail_fast", True, True),
    ("fail_fast", False, False),
    ("fail_fast", "observe", "observe"),
    ("fail_fast", " Observe", "observe"),
    ("fail_fast", "on", True),
    ("fail_fast", "false", False),
    ("max_wait", None, None),
    ("max_wait", "0.5", 0.5),
    ("max_wait", "none", None),
    ("max_waiting", None, None),
    ("max_waiting", 0, 0),
    ("max_waiting", 5.0, 5),
    ("max_waiting", "12", 12),
    ("max_waiting", "none", None),
    ("breaker", False, False),
    ("breaker", "on", True),
    ("connect_limit", None, None),
    ("connect_limit", 1, 1),
    ("connect_limit", "5", 5),
    ("overflow_linger", 0, 0.0),
    ("overflow_linger", "1.5", 1.5),
    ("ping_after", None, None),
    ("ping_after", "30", 30.0),
    ("ping_after", "none", None),
    ("inspect", "yes", True),
    ("processes", None, None),
    ("processes", "4", 4),
    ("capture", "site", "site"),
    ("capture", "stack", "stack"),
    ("capture", "off", "off"),
    ("telemetry", True, True),
    ("telemetry", False, False),
    ("telemetry", "TRUE", True),
    ("telemetry", "on", True),
    ("telemetry", "1", True),
    ("telemetry", "yes", True),
    ("telemetry", "no", False),
    ("telemetry", "off", False),
    ("telemetry", "0", False),
    ("telemetry", "False", False),
    ("meter_provider", None, None),
    ("meter_provider", meters, meters),
    ("tracer_provider", None, None),
    ("tracer_provider", tracers, tracers),
    ("observers", (), ()),
    ("observers", [me], (me,)),
    ("observers", (me,), (me,)),
]

SECONDS, COUNT, SPAN = (
    "None or a number of seconds above 0",
    "None or a whole number, 0 or more",
    "a number of seconds, 0 or more",
)
SWITCH, CHOICE, TEXT = "True or False", "'site', 'stack' or 'off'", "None or a non-empty text"
PROVIDER = "None or an instance of opentelemetry.{}; it cannot be given as text"
OBSERVER = "instances of a subclass of sqla_poolguard.Observer"

BAD = [
    *(
        (name, value, SECONDS)
        for name in ("hold_warning", "await_warning", "ping_after")
        for value in (0, -1, math.inf, -math.inf, "0", "-1", "inf")
    ),
    *((name, value, SECONDS) for name in ("hold_warning", "await_warning", "ping_after") for value in ("soon", True, [], HUGE)),
    *(("overflow_linger", value, SPAN) for value in (None, -1, "none", "", math.inf, "long", False, HUGE)),
    *(("fail_fast", value, "True, False or 'observe'") for value in (None, 1, "", "maybe")),
    *(("max_wait", value, SECONDS) for value in (0, -1, math.inf, "soon", True)),
    *(("breaker", value, SWITCH) for value in ("maybe", 1, None)),
    *(("connect_limit", value, COUNT.replace("0 or", "1 or")) for value in (0, -1, 1.5, "many", True, math.inf)),
    *(("processes", value, COUNT.replace("0 or", "1 or")) for value in (0, -1, 1.5, "many", True, math.inf)),
    *(("inspect", value, SWITCH) for value in ("maybe", 1, None)),
    *(("max_waiting", value, COUNT) for value in (-1, 1.5, "1.5", "many", True, math.inf, "-1", {})),
    *(("statement_text", value, SWITCH) for value in (None, 1, "maybe")),
    *(("slow_statement", value, SECONDS) for value in (0, -1, "soon", True)),
    *(("telemetry", value, SWITCH) for value in (None, 1, 0, "maybe", "")),
    *(
        ("meter_provider", value, PROVIDER.format("metrics.MeterProvider"))
        for value in ("none", "sdk", "", 1, True, tracers, NoOpMeterProvider)
    ),
    *(
        ("tracer_provider", value, PROVIDER.format("trace.TracerProvider"))
        for value in ("none", "sdk", "", 1, True, meters, NoOpTracerProvider)
    ),
    *(("capture", value, CHOICE) for value in (None, "everything", "", "SITE", 1)),
    *(("deadlock", value, "'fail' or 'warn'") for value in (None, True, "", "FAIL", "never")),
    *(("reclaim", value, "'never' or 'orphaned'") for value in (None, False, "", "always", 1)),
    *(("name", value, TEXT) for value in ("", "  ", 5, b"orders")),
    *(("observers", value, "a sequence of sqla_poolguard.Observer instances") for value in (None, "me", b"me", me, 5)),
    ("observers", (Observer,), OBSERVER),
    ("observers", ("me",), OBSERVER),
    ("observers", {"me": me}, OBSERVER),
]


@pytest.mark.parametrize(("option", "value", "read"), GOOD)
def test_good_values(option, value, read):
    """What is allowed is taken, and text is read as the option's type."""
    guard = Guard(**{option: value})
    assert getattr(guard, option) == read
    assert type(getattr(guard, option)) is type(read)


@pytest.mark.parametrize(("option", "value", "allowed"), BAD, ids=lambda part: "huge" if part is HUGE else None)
def test_bad_values(option, value, allowed):
    """What is not allowed is a ValueError that names the option, the value and what is allowed."""
    with pytest.raises(ValueError, match="is not allowed") as caught:
        Guard(**{option: value})
    shown = str(caught.value)
    assert shown.startswith(f"Guard option {option}=")
    assert shown.endswith(f"allowed: {allowed}")
    if option != "observers":
        assert f"={value!r} " in shown


@pytest.mark.parametrize("value", [math.nan, "nan"])
def test_not_a_number(value):
    """Not a number is not a number of seconds."""
    with pytest.raises(ValueError, match=r"hold_warning='?nan'? is not allowed"):
        Guard(hold_warning=value)


def test_every_option_is_tested():
    """An option that is added is added here too."""
    options = {field.name for field in dataclasses.fields(Guard)}
    assert {option for option, *_ in GOOD} == {option for option, *_ in BAD} == options


def test_defaults():
    """The defaults are those that are documented."""
    assert dataclasses.asdict(Guard()) == {
        "name": None,
        "hold_warning": 5.0,
        "await_warning": 1.0,
        "deadlock": "fail",
        "reclaim": "never",
        "slow_statement": None,
        "statement_text": False,
        "fail_fast": "observe",
        "max_wait": None,
        "max_waiting": None,
        "breaker": True,
        "connect_limit": 3,
        "overflow_linger": 0.0,
        "ping_after": None,
        "processes": None,
        "inspect": False,
        "capture": "site",
        "telemetry": True,
        "meter_provider": None,
        "tracer_provider": None,
        "observers": (),
    }


def test_guard_is_frozen():
    """A guard that is in force does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Guard().name = "other"


def test_guard_is_a_value():
    """Equal options, equal guards; and they can be dictionary keys."""
    assert Guard(hold_warning="2") == Guard(hold_warning=2)
    assert len({Guard(), Guard(), Guard(name="x")}) == 2


def test_unknown_option():
    """A misspelt option is named, with all that there are."""
    with pytest.raises(ValueError, match=r"unknown Guard option 'hold_warnin'; allowed: name, hold_warning, await_warning, "):
        Guard.from_options({"hold_warnin": "2"})


def test_options_on_top_of_a_base():
    """What is not named comes from the base."""
    guard = Guard.from_options({"max_waiting": "3"}, base=Guard(hold_warning=9))
    assert (guard.max_waiting, guard.hold_warning) == (3, 9.0)


def test_read():
    """None is the default, a guard is itself, a mapping goes on top of the default."""
    default, mine = Guard(hold_warning=9), Guard()
    assert Guard.read(None, default) is default
    assert Guard.read(mine, default) is mine
    assert Guard.read({"name": "x"}, default) == Guard(name="x", hold_warning=9)
    with pytest.raises(ValueError, match=r"guard=5 is not allowed; allowed: None, a sqla_poolguard.Guard, or a mapping"):
        Guard.read(5, default)
