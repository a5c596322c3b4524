"""What took time is recorded once, whoever collects and whenever: no sample is lost, none is told twice, none piles up."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, ledger_of, queue_up
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader

from sqla_poolguard import CheckoutRejected, CheckoutTimeout, Guard
from sqla_poolguard._facts import Reason
from sqla_poolguard._ledger import Ledger
from sqla_poolguard._otel import _measured, _metrics, _total
from sqla_poolguard._otel._names import SECONDS_BUCKETS
from sqla_poolguard._otel._total import Total


async def checkouts(db, count):
    """Check out and in, so many times."""
    for _ in range(count):
        async with db.connect():
            pass


async def test_times_are_seconds_and_exact(sdk):
    """Create, wait and use time are recorded in seconds, each once per connection or lease."""
    db = engine(FakeDriver(connect=Gate.SLOW), pool_size=1, max_overflow=0)
    order = []
    await asyncio.gather(*await queue_up(db, order, "a", "b", "c", hold=2.0))
    values = sdk.values()
    assert values["wait_time"] == (3, 0.25 + 2.25 + 4.25)
    assert values["use_time"] == (3, 6.0)
    assert values["create_time"][0] == 1


async def test_buckets_suit_seconds(sdk):
    """The histograms come with the conventions' advice, not with the SDK's default made for milliseconds."""
    db = engine()
    await checkouts(db, 1)
    points = sdk.readers[0].points()
    for metric in ("wait_time", "use_time", "create_time"):
        assert points[metric].explicit_bounds == SECONDS_BUCKETS


async def test_timeouts_are_counted_and_other_refusals_are_not(sdk):
    """Each timeout counts; a full queue or a failed connect does not."""
    driver = FakeDriver()
    db = engine(driver, pool_size=1, max_overflow=0, pool_timeout=2, guard=Guard(max_waiting=1))
    async with all_out(db, 1):
        tasks = await queue_up(db, [], "in vain", "not let in")
        for task in tasks:
            with pytest.raises(CheckoutTimeout) if task is tasks[0] else pytest.raises(Exception, match="queue is full"):
                await task
    assert sdk.values()["timeouts"] == 1
    assert ledger_of(db).rejected["timeout"] == 1


async def test_each_reader_gets_everything(cumulative_and_delta):
    """A sample reaches every reader: totals for the cumulative one, what is new for the other."""
    cumulative, delta = cumulative_and_delta.readers
    db = engine()
    await checkouts(db, 5)
    assert cumulative.values()["use_time"][0] == 5
    assert delta.values()["use_time"][0] == 5
    await checkouts(db, 2)
    assert delta.values()["use_time"][0] == 2
    assert cumulative.values()["use_time"][0] == 7
    assert cumulative.values()["use_time"][0] == 7
    assert "use_time" not in delta.values()


async def test_dispose_keeps_totals(sdk):
    """Totals go on growing over `dispose()`, whether samples were taken before or not."""
    db = engine()
    for round_ in range(1, 5):
        await checkouts(db, 2)
        await db.dispose()
        if round_ % 2 == 0:
            assert sdk.values()["use_time"][0] == 2 * round_
            assert sdk.values()["create_time"][0] == round_


async def test_collected_engine_leaves_its_samples(sdk):
    """What an engine measured is exported although it is gone; then nothing of it is kept."""
    db = engine(guard=Guard(name="passing"))
    await checkouts(db, 3)
    await db.dispose()
    del db
    gc.collect()
    found = {key: value for key, value in sdk.values("passing").items() if isinstance(value, tuple)}
    assert found == {"create_time": (1, pytest.approx(0, abs=1)), "wait_time": (3, 0.0), "use_time": (3, 0.0)}
    assert sdk.metrics._pools == []


class Keeping(MetricExporter):
    """Remembers how many leases were exported last."""

    def __init__(self):
        super().__init__()
        self.leases = 0

    def export(self, metrics_data, timeout_millis=10_000, **_):
        """Remember."""
        for resource in metrics_data.resource_metrics:
            for metric in resource.scope_metrics[0].metrics:
                if metric.name.endswith("use_time"):
                    self.leases = metric.data.data_points[0].count
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        """Do nothing."""
        return True

    def shutdown(self, timeout_millis=30_000, **_):
        """Do nothing."""


@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
async def test_nothing_is_lost_at_the_end(use, end):
    """`force_flush()` and `shutdown()` export what was waiting, with a reader that has a thread of its own."""
    exporter = Keeping()
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=86_400_000)
    sdk = use(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    db = engine()
    await checkouts(db, 100)
    assert exporter.leases == 0
    getattr(sdk.provider, end)()
    assert exporter.leases == 100


async def test_late_sample_is_no_exemplar_for_another_trace(sdk):
    """A sample that is recorded inside some other span is not taken for one of its trace."""
    db = engine()
    await checkouts(db, 1)
    with sdk.tracer.start_as_current_span("scrape"):
        points = sdk.readers[0].points()
    assert points["use_time"].exemplars == []
    assert points["wait_time"].exemplars == []


async def test_long_wait_is_an_exemplar_for_its_trace(sdk):
    """Who waits long finds the trace at the histogram, already while it holds; its wait is counted once, and all others too."""
    db = engine(pool_size=1, max_overflow=0)

    async def request():
        with sdk.tracer.start_as_current_span("request") as span:
            async with db.connect():
                await asyncio.sleep(1)
        return span.get_span_context().trace_id

    tasks = [asyncio.create_task(request()) for _ in range(3)]
    await asyncio.sleep(1.5)  # one has it at once, one has waited, one waits
    points = sdk.readers[0].points()
    assert (points["wait_time"].count, points["wait_time"].sum) == (2, 1.0)
    assert points["use_time"].count == 1
    early = [e.trace_id for e in points["wait_time"].exemplars]
    traces = [await task for task in tasks]
    assert early == [traces[1]]
    points = sdk.readers[0].points()
    assert (points["wait_time"].count, points["wait_time"].sum) == (3, 3.0)
    assert (points["use_time"].count, points["use_time"].sum) == (3, 3.0)
    assert {(e.trace_id, e.value) for e in points["wait_time"].exemplars} <= {(traces[1], 1.0), (traces[2], 2.0)}
    assert traces[2] in {e.trace_id for e in points["wait_time"].exemplars}
    assert points["use_time"].exemplars == []


async def test_equal_long_waits_are_counted_once_each(sdk):
    """Waits that took equally long, to the last digit, are as many as there were."""
    db = engine(FakeDriver(connect=Gate.SLOW), guard=Guard(connect_limit=None))
    async with all_out(db, 2):
        assert sdk.values()["wait_time"] == (2, 0.5)
    await checkouts(db, 2)
    assert sdk.values()["wait_time"] == (4, 0.5)
    assert sdk.values()["use_time"][0] == 4


async def test_long_wait_before_there_is_an_sdk_is_recorded_later(sdk, monkeypatch):
    """While nobody measures, a long wait is left to the buffer, as any other."""
    db = engine(FakeDriver(connect=Gate.SLOW))
    with monkeypatch.context() as patch:
        patch.setattr(_measured, "nobody_measures", lambda _: True)
        await checkouts(db, 1)
    assert sdk.values()["wait_time"] == (1, 0.25)


@pytest.mark.parametrize("metric", ["timeouts", "poolguard.rejections timeout"])
async def test_rejection_before_there_is_an_sdk_is_counted_later(sdk, monkeypatch, metric):
    """So is what was counted before: the figure of the ledger is caught up with."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    with monkeypatch.context() as patch:
        patch.setattr(_total, "nobody_measures", lambda _: True)
        async with all_out(db, 1):
            await asyncio.gather(*await queue_up(db, [], "a", "b"), return_exceptions=True)
    assert sdk.values()[metric] == 2
    assert sdk.values()[metric] == 2


async def test_rejection_is_an_exemplar_for_its_trace(sdk):
    """Who is turned away at once finds its trace at the counter, and who is not traced leaves none."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    async with all_out(db, 1):
        with pytest.raises(CheckoutRejected):
            await db.connect()
        with sdk.tracer.start_as_current_span("request") as span, pytest.raises(CheckoutRejected):
            await db.connect()
    point = sdk.readers[0].points()["poolguard.rejections queue_full"]
    assert point.value == 2
    assert [(e.trace_id, e.value) for e in point.exemplars] == [(span.get_span_context().trace_id, 1)]


async def test_total_that_could_not_be_told_is_told_later(sdk, monkeypatch, caplog):
    """A counter that raises breaks no refusal, and is told again at the next export."""
    db = engine(pool_size=1, max_overflow=0, guard=Guard(max_waiting=0))
    sdk.values()
    for pool in sdk.metrics._pools:
        total = pool._rejections[Reason.QUEUE_FULL]
        with monkeypatch.context() as patch:
            patch.setattr(total, "_counter", Broken())
            async with all_out(db, 1):
                with pytest.raises(CheckoutRejected):
                    await db.connect()
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
    assert sdk.values()["poolguard.rejections queue_full"] == 1


def test_two_threads_tell_a_total_once(sdk):
    """However many tell what is new, at the same time, it is told once."""
    counter, figure = Noting(), [0]
    total = Total(counter, lambda: figure[0], {})
    stop = threading.Event()
    threads = [threading.Thread(target=lambda: [total.tell() for _ in iter(stop.is_set, True)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 2001):
        figure[0] = number
        total.tell()
    stop.set()
    for thread in threads:
        thread.join()
    assert sum(counter.noted) == 2000


class Noting:
    """A counter that notes what it is told."""

    def __init__(self):
        self.noted = []

    def add(self, amount, *_, **__):
        """Note."""
        self.noted.append(amount)


async def test_timeout_and_connect_are_exemplars_for_their_trace(sdk):
    """What is recorded at once carries the trace of the request that waited."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1)
    with sdk.tracer.start_as_current_span("request") as span:
        async with all_out(db, 1):
            with pytest.raises(CheckoutTimeout):
                await db.connect()
    trace_id = span.get_span_context().trace_id
    points = sdk.readers[0].points()
    assert [e.trace_id for e in points["create_time"].exemplars] == [trace_id]
    assert [e.trace_id for e in points["timeouts"].exemplars] == [trace_id]


class OldMeter:
    """A meter of API 1.27: no advice about buckets, no context."""

    def __init__(self):
        self.recorded = []

    def __getattr__(self, kind):
        if kind == "create_histogram":
            return lambda name, unit, description: OldHistogram(self.recorded)
        return lambda *_: None


class OldHistogram:
    """A histogram of API 1.27."""

    def __init__(self, recorded):
        self.recorded = recorded

    def record(self, amount, attributes=None):
        """Remember."""
        self.recorded.append(amount)


def test_older_api_will_do():
    """Where the API takes neither buckets nor a context, the figures are recorded without."""
    meter = OldMeter()
    ledger = Ledger()
    ledger.samples.append((1.0, 2.0))
    _metrics.Metrics(meter).measure(ledger, "old").spill(ledger.samples)
    assert meter.recorded == [1.0, 2.0]


class Broken:
    """An instrument that raises."""

    def record(self, *_, **__):
        """Raise."""
        raise ZeroDivisionError

    add = record


async def test_failing_sdk_breaks_no_checkout(sdk, caplog, monkeypatch):
    """An instrument that raises is logged, and the checkout goes on."""
    monkeypatch.setattr(sdk.metrics, "create_time", Broken())
    db = engine()
    await checkouts(db, 2)
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError
    assert sdk.values()["use_time"][0] == 2


async def test_ordinary_checkout_calls_nothing(sdk):
    """A checkout of an idle connection reaches none of our methods: it leaves a sample, and no more."""
    db = engine()
    await checkouts(db, 1)
    observers = db.sync_engine.pool._watch.reporter.observers
    assert observers.granted == ()
    assert observers.ended == ()
