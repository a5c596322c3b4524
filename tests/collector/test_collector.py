"""What a scrape shows: levels as they are, totals that only grow, one series for each pool."""

from __future__ import annotations

import asyncio
import gc

import pytest
from doubles.driver import FakeDriver, Gate
from doubles.pools import all_out, engine, ledger_of, pool_of, queue_up
from doubles.scrapes import Scrape
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_poolguard import CheckoutTimeout, Guard, _ledger, _samples
from sqla_poolguard.prometheus import PoolCollector


async def checkouts(db, count):
    """Check out and in, so many times."""
    for _ in range(count):
        async with db.connect():
            pass


async def test_levels_are_read_when_somebody_looks(scrape):
    """Connections and waiters are as the pool has them at the scrape."""
    db = engine(pool_size=2, max_overflow=1, guard=Guard(name="busy"))
    async with all_out(db, 3):
        tasks = await queue_up(db, [], "a", "b")
        busy = scrape.values("busy")
    await asyncio.gather(*tasks)
    assert {key: busy[key] for key in busy if "_seconds" not in key} == {
        "count used": 3,
        "idle_max": 2,
        "max": 3,
        "pending_requests": 2,
        "poolguard_breaker_state closed": 1,
    }
    quiet = scrape.values("busy")
    assert (quiet["count idle"], "count used" in quiet, "pending_requests" in quiet) == (2, False, False)


async def test_unlimited_pool_shows_no_limit(scrape):
    """A pool without a limit has no series for it, and so nothing that divides by it."""
    db = engine(pool_size=0, guard=Guard(name="unlimited"))
    await checkouts(db, 1)
    values = scrape.values("unlimited", zeros=True)
    assert "max" not in values
    assert "idle_max" not in values
    assert "count used" in values


async def test_times_are_seconds_and_exact(scrape):
    """Create, wait and use time are counted in seconds, each once per connection or lease."""
    db = engine(FakeDriver(connect=Gate.SLOW), pool_size=1, max_overflow=0, guard=Guard(name="slow"))
    await asyncio.gather(*await queue_up(db, [], "a", "b", "c", hold=2.0))
    values = scrape.values("slow")
    assert (values["wait_time_seconds_count"], values["wait_time_seconds_sum"]) == (3, 0.25 + 2.25 + 4.25)
    assert (values["use_time_seconds_count"], values["use_time_seconds_sum"]) == (3, 6.0)
    assert values["create_time_seconds_count"] == 1
    assert scrape.buckets("slow", "wait_time_seconds") == {
        **dict.fromkeys(("0.001", "0.005", "0.01", "0.05", "0.1"), 0),
        **dict.fromkeys(("0.5", "1.0"), 1),
        "5.0": 3,
        "10.0": 3,
        "+Inf": 3,
    }


async def test_every_counter_begins_at_zero(scrape):
    """Counters are there before anything happens: Prometheus sees the first increase too."""
    db = engine(guard=Guard(name="new"))
    values = scrape.values("new", zeros=True)
    assert {key: value for key, value in values.items() if "_total" in key and value} == {}
    assert {"timeouts_total", "poolguard_rejections_total timeout", "poolguard_would_reject_total"} <= set(values)
    await db.dispose()


async def test_timeouts_and_other_refusals(scrape):
    """Each refusal counts under its reason; a timeout is counted as a timeout as well."""
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1, guard=Guard(name="full", max_waiting=1))
    async with all_out(db, 1):
        await asyncio.gather(*await queue_up(db, [], "in vain", "not let in"), return_exceptions=True)
    values = scrape.values("full")
    assert values["timeouts_total"] == 1
    assert values["poolguard_rejections_total timeout"] == 1
    assert values["poolguard_rejections_total queue_full"] == 1


async def test_dispose_keeps_totals(scrape):
    """Totals go on growing over `dispose()`, whether somebody looked before or not."""
    db = engine(guard=Guard(name="disposed"))
    for round_ in range(1, 5):
        await checkouts(db, 2)
        await db.dispose()
        if round_ % 2 == 0:
            values = scrape.values("disposed")
            assert values["use_time_seconds_count"] == 2 * round_
            assert values["create_time_seconds_count"] == round_


async def test_collected_engine_keeps_its_totals(scrape):
    """An engine that is gone keeps its counters, shows no level any more, and the next one of its name goes on counting."""
    for round_ in range(1, 4):
        db = engine(pool_size=1, max_overflow=0, pool_timeout=1, guard=Guard(name="again"))
        await checkouts(db, 3)
        async with all_out(db, 1):
            with pytest.raises(CheckoutTimeout):
                await db.connect()
        ledger_of(db).totals.would_reject += 2
        await db.dispose()
        del db
        gc.collect()
        if round_ != 2:  # with and without a look in between
            values = scrape.values("again", zeros=True)
            assert values["use_time_seconds_count"] == values["wait_time_seconds_count"] == 4 * round_
            assert values["create_time_seconds_count"] == values["timeouts_total"] == round_
            assert values["poolguard_would_reject_total"] == 2 * round_
            assert "count idle" not in values
            assert "max" not in values
            assert "pending_requests" not in values


async def test_collected_engine_is_not_kept_alive(scrape):
    """The account keeps figures; of the engine, its pool and its OpenTelemetry instruments it keeps nothing after a look."""
    db = engine(guard=Guard(name="gone", meter_provider=MeterProvider(shutdown_on_exit=False)))
    await checkouts(db, 1)
    scrape.text()
    await db.dispose()
    del db
    gc.collect()
    scrape.text()
    (account,) = [one for one in scrape.collector._accounts.all() if one.name == "gone"]
    assert account.ledger is None
    assert account._dealt is None


async def test_engines_made_before_and_after_are_seen(scrape):
    """Every pool of the process is there, whenever it was made; those of one address are told apart."""
    early = [engine() for _ in range(2)]
    late = Scrape()
    after = engine()
    for db in (*early, after):
        name = pool_of(db).name
        await checkouts(db, 1)
        assert late.values(name)["use_time_seconds_count"] == 1
        assert scrape.values(name)["use_time_seconds_count"] == 1
    assert len({pool_of(db).name for db in (*early, after)}) == 3


async def test_only_some_engines():
    """A collector of some engines tells of no others."""
    orders, billing = engine(guard=Guard(name="orders")), engine(guard=Guard(name="billing"))
    await checkouts(billing, 1)
    some = Scrape(orders)
    assert repr(some.collector) == "<PoolCollector of orders>"
    assert some.values("billing", zeros=True) == {}
    await orders.dispose()
    assert some.values("orders", zeros=True)["count idle"] == 0


async def test_two_collectors_do_not_steal_from_each_other(scrape):
    """Two registries, each with a collector, show the same."""
    other = Scrape()
    db = engine(guard=Guard(name="twice"))
    for round_ in (1, 2):
        await checkouts(db, 5)
        assert scrape.values("twice")["use_time_seconds_count"] == 5 * round_
        assert other.values("twice")["use_time_seconds_count"] == 5 * round_


async def test_telemetry_off_is_about_opentelemetry(scrape):
    """`Guard(telemetry=False)` hides nothing from a collector that somebody has asked for."""
    db = engine(guard=Guard(name="quiet", telemetry=False))
    await checkouts(db, 3)
    assert scrape.values("quiet")["use_time_seconds_count"] == 3


async def test_nobody_scrapes(scrape, monkeypatch):
    """While nobody looks, checkouts keep the buffer within bounds, and what they take out of it is counted."""
    for room in (_ledger, _samples):
        monkeypatch.setattr(room, "SAMPLES_KEPT", 10)
    db = engine(guard=Guard(name="unseen", telemetry=False))
    await checkouts(db, 1000)
    assert len(ledger_of(db).samples) <= 11
    assert scrape.values("unseen")["use_time_seconds_count"] == 1000


def families(text):
    """Give (name, type, labels) of every series of ours, without the SDK's own labels and the counters' zeros."""
    return {
        (sample.name, family.type, tuple(sorted(label for label in sample.labels if not label.startswith("otel_scope"))))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("db_client_connection_pool_name") == "same" and not sample.name.endswith("_created")
    }


async def test_names_and_labels_are_opentelemetrys():
    """Whichever way is chosen, metrics, types, labels, buckets and words are the same."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    guard = Guard(name="same", max_waiting=1, meter_provider=provider)
    db = engine(pool_size=1, max_overflow=0, pool_timeout=1, guard=guard)
    scrape = Scrape(db)
    async with all_out(db, 1):
        await asyncio.gather(*await queue_up(db, [], "in vain", "not let in"), return_exceptions=True)
    ledger_of(db).totals.foreign_await = 1.5  # the fake driver does not tell when it is idle
    theirs, ours = generate_latest(registry).decode(), scrape.text()
    provider.shutdown()
    assert families(theirs) == families(ours)
    documented = {family.name: family.documentation for family in text_string_to_metric_families(ours)}
    found = {family.name: family.documentation for family in text_string_to_metric_families(theirs)}
    assert documented == {name: words for name, words in found.items() if name in documented}
    assert len(documented) == 15
    bounds = [
        {
            sample.labels["le"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "le" in sample.labels
        }
        for text in (theirs, ours)
    ]
    assert bounds[0] == bounds[1]


async def test_openmetrics_is_valid(scrape):
    """The stricter format takes it as well."""
    await checkouts(engine(guard=Guard(name="strict")), 1)
    names = {family.name for family in parse_openmetrics(generate_openmetrics(scrape.registry).decode())}
    assert {"db_client_connection_count", "db_client_connection_timeouts", "poolguard_rejections"} <= names


def test_second_collector_in_a_registry_is_refused(scrape):
    """Two of a kind would show everything twice; prometheus_client says so, and nothing is scraped for that."""
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        scrape.registry.register(PoolCollector())


def test_stock_engine_is_refused():
    """An engine that has no guarded pool is named at once."""
    stock = create_async_engine("postgresql+asyncpg://h/db", creator=FakeDriver().open)
    with pytest.raises(TypeError, match="poolclass=GuardedPool is wanted, or its pool; got AsyncEngine with"):
        PoolCollector(stock)
