"""
The metrics as Prometheus has them: each as OpenTelemetry's exporters translate it, so that one query fits both ways.

Of `prometheus_client` it takes the classes of its families, which are handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqla_poolguard._durations import SECONDS_BUCKETS
from sqla_poolguard._facts import Reason
from sqla_poolguard._levels import breakers, connections, most_idle, most_open
from sqla_poolguard._otel import _names as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import ModuleType

    from prometheus_client.core import Metric

    from sqla_poolguard._durations import Durations
    from sqla_poolguard._ledger import Ledger
    from sqla_poolguard._prometheus.account import Account
    from sqla_poolguard._totals import Totals

    _Rows = Sequence[tuple[float | None, str]]
    """(value, value of the label); the value is None where there is none to tell."""

__all__ = ["Families"]


class _Gauge(NamedTuple):
    """What is read from the books of an engine that lives."""

    instrument: names.Instrument
    label: str | None
    rows: Callable[[Ledger], _Rows]


class _Counter(NamedTuple):
    """What is read from the totals of a name."""

    instrument: names.Instrument
    label: str | None
    rows: Callable[[Totals], _Rows]


def _count(ledger: Ledger) -> _Rows:
    found = connections(ledger)
    return [(found.idle, names.IDLE), (found.used, names.USED)]


_GAUGES: Final = (
    _Gauge(names.CONNECTION_COUNT, names.STATE, _count),
    _Gauge(names.CONNECTION_MAX, None, lambda ledger: [(most_open(ledger), "")]),
    _Gauge(names.CONNECTION_IDLE_MAX, None, lambda ledger: [(most_idle(ledger), "")]),
    _Gauge(names.CONNECTION_IDLE_MIN, None, lambda _: [(0, "")]),
    _Gauge(names.CONNECTION_PENDING_REQUESTS, None, lambda ledger: [(ledger.waiting, "")]),
    _Gauge(
        names.BREAKER_STATE, names.BREAKER, lambda ledger: [(number, str(state)) for state, number in breakers(ledger).items()]
    ),
)

_COUNTERS: Final = (
    _Counter(names.CONNECTION_TIMEOUTS, None, lambda totals: [(totals.rejected[Reason.TIMEOUT], "")]),
    _Counter(names.REJECTIONS, names.REASON, lambda totals: [(count, str(reason)) for reason, count in totals.rejected.items()]),
    _Counter(names.WOULD_REJECT, None, lambda totals: [(totals.would_reject, "")]),
    _Counter(names.LEAKS, names.KIND, lambda totals: [(count, str(kind)) for kind, count in totals.leaks.items()]),
    _Counter(names.FOREIGN_AWAIT_TIME, None, lambda totals: [(totals.foreign_await, "")]),
    _Counter(names.SPANS_SUPPRESSED, None, lambda totals: [(totals.spans_suppressed, "")]),
)


class Families:
    """Makes families of metrics."""

    def __init__(self, core: ModuleType) -> None:
        """Make them of the classes of `prometheus_client.core`."""
        self._core: Any = core

    def of(self, accounts: list[Account]) -> Iterator[Metric]:
        """Give every metric of these pools; those that have no pool to tell of, too."""
        living = [(account.name, ledger) for account in accounts if (ledger := account.ledger) is not None]
        for gauge in _GAUGES:
            rows = [(name, gauge.rows(ledger)) for name, ledger in living]
            yield self._family(self._core.GaugeMetricFamily, gauge.instrument, gauge.label, rows)
        totals = [(account.name, account.totals()) for account in accounts]
        for counter in _COUNTERS:
            rows = [(name, counter.rows(total)) for name, total in totals]
            yield self._family(self._core.CounterMetricFamily, counter.instrument, counter.label, rows)
        times = [(account.name, *account.times()) for account in accounts]
        yield self._histogram(names.CONNECTION_CREATE_TIME, [(name, total.create_times) for name, total in totals])
        yield self._histogram(names.CONNECTION_WAIT_TIME, [(name, waits) for name, waits, _ in times])
        yield self._histogram(names.CONNECTION_USE_TIME, [(name, uses) for name, _, uses in times])

    def _family(self, kind: Any, instrument: names.Instrument, label: str | None, pools: Iterable[tuple[str, _Rows]]) -> Metric:
        family = kind(*_words(instrument), labels=_labels(label), unit=_unit(instrument))
        for name, rows in pools:
            for value, of in rows:
                if value is not None:
                    family.add_metric([name] if label is None else [name, of], value)
        return family  # type: ignore[no-any-return]

    def _histogram(self, instrument: names.Instrument, rows: Iterable[tuple[str, Durations]]) -> Metric:
        family = self._core.HistogramMetricFamily(*_words(instrument), labels=_labels(None), unit=_unit(instrument))
        for name, durations in rows:
            below = 0
            buckets = []
            for boundary, count in zip((*SECONDS_BUCKETS, "+Inf"), durations.counts.copy(), strict=True):
                below += count
                buckets.append((str(boundary), below))
            family.add_metric([name], buckets, durations.total)
        return family  # type: ignore[no-any-return]


def _words(instrument: names.Instrument) -> tuple[str, str]:
    """Give the name of a metric without its unit, and what it means."""
    return _sanitize(instrument.name), instrument.description


def _labels(second: str | None) -> list[str]:
    return [_sanitize(label) for label in (names.POOL_NAME, second) if label is not None]


def _unit(instrument: names.Instrument) -> str:
    """Give the unit as it is in the metric's name; what only counts has none."""
    return "seconds" if instrument.unit == "s" else ""


def _sanitize(name: str) -> str:
    return name.replace(".", "_")
