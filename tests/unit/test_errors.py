"""What a caller may catch: the message, the data, the problem document, and the way through a pickle."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import sqlalchemy.exc

from sqla_poolguard import CheckoutError, CheckoutRejected, CheckoutTimeout, Holder, PoolSnapshot, Reason, Site


def holder(line, held, file="/app/orders.py"):
    """Give a holder."""
    return Holder(pool="orders", site=Site(file, line, "list_orders"), task="t", held=held, waited=0.0)


def snapshot(*holders, waiting=0):
    """Give a snapshot of a pool with these holders."""
    return PoolSnapshot("orders", 10, 5, 0, len(holders), 0, waiting, tuple(holders), ())


def timeout(*holders, waited=3.0, waiting=42, retry_after=1.5):
    """Give a timeout."""
    return CheckoutTimeout(
        reason=Reason.TIMEOUT, waited=waited, retry_after=retry_after, snapshot=snapshot(*holders, waiting=waiting)
    )


def test_message_says_what_happened_and_who_holds():
    """Figures first, then the lines that hold, the one with the most connections first."""
    error = timeout(holder(48, 12.4), holder(48, 2.0), holder(48, 1.0), holder(8, 6.1), holder(9, 7.0, "/app/a.py"))
    head, *rows = error.args[0].splitlines()
    assert head == "no connection after 3.00 s: pool 'orders' 10+5, 5 out, 0 idle, 42 waiting"
    assert rows == [
        "    3 x  /app/orders.py:48 in list_orders   held 12.4 s",
        "    1 x  /app/a.py:9 in list_orders         held 7.0 s",
        "    1 x  /app/orders.py:8 in list_orders    held 6.1 s",
    ]


def test_message_of_a_rejection():
    """A rejection did not wait, and says why."""
    error = CheckoutRejected(reason=Reason.QUEUE_FULL, waited=0.0, retry_after=None, snapshot=snapshot(waiting=7))
    assert str(error).startswith("no connection: the queue is full: pool 'orders' 10+5, 0 out, 0 idle, 7 waiting")


def test_message_is_bounded():
    """With more than ten lines that hold, the rest is summed up."""
    error = timeout(*(holder(line, 1.0) for line in range(1, 26)))
    rows = error.args[0].splitlines()[1:]
    assert len(rows) == 11
    assert rows[-1] == "   15 x  at 15 other lines"


def test_holder_without_a_site():
    """Where no line is known the message says so."""
    unknown = Holder(pool="orders", site=None, task=None, held=1.0, waited=0.0)
    assert "    1 x  (unknown)   held 1.0 s" in str(timeout(unknown))


@pytest.mark.parametrize("kind", [CheckoutTimeout, CheckoutRejected])
def test_fits_existing_handlers(kind):
    """Both are SQLAlchemy's TimeoutError, with its code and link, and CheckoutError."""
    error = kind(reason=Reason.TIMEOUT, waited=1.0, retry_after=None, snapshot=snapshot())
    assert isinstance(error, sqlalchemy.exc.TimeoutError)
    assert isinstance(error, sqlalchemy.exc.SQLAlchemyError)
    assert isinstance(error, CheckoutError)
    assert not isinstance(error, sqlalchemy.exc.DBAPIError)
    assert error.code == "3o7r"
    assert "https://sqlalche.me/e/" in str(error)
    assert str(error).rstrip().endswith("3o7r)")


def test_data():
    """Everything in the message is there as data too."""
    error = timeout(holder(1, 2.0))
    assert (error.status_code, error.reason, error.waited, error.retry_after) == (503, "timeout", 3.0, 1.5)
    assert error.snapshot.holders[0].site.line == 1


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", [CheckoutTimeout, CheckoutRejected])
def test_pickle_and_copy(through, kind):
    """An error that crossed a process boundary is the same in every part."""
    error = kind(
        reason=Reason.QUEUE_FULL if kind is CheckoutRejected else Reason.TIMEOUT,
        waited=1.25,
        retry_after=2.5,
        snapshot=snapshot(holder(3, 4.0), waiting=2),
    )
    twin = through(error)
    assert twin is not error
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert (twin.reason, twin.waited, twin.retry_after, twin.snapshot, twin.code) == (
        error.reason,
        error.waited,
        error.retry_after,
        error.snapshot,
        error.code,
    )
    assert twin.to_problem() == error.to_problem()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(protocol):
    """Old protocols do too."""
    assert str(pickle.loads(pickle.dumps(timeout(holder(3, 4.0)), protocol))) == str(timeout(holder(3, 4.0)))


def test_problem_tells_no_internals():
    """A client learns that the service is busy, and nothing of pool, file, task or figures."""
    error = timeout(holder(48, 12.4))
    problem = error.to_problem()
    assert problem == {
        "type": "tag:sqla-poolguard,2026:timeout",
        "title": "No database connection in time",
        "status": 503,
        "detail": "The service is busy and could not get a database connection in time.",
        "reason": "timeout",
        "retry_after": 2,
    }
    shown = json.dumps(problem)
    for internal in ("orders", "list_orders", ".py", "48", "12.4", "42"):
        assert internal not in shown


def test_problem_without_a_time():
    """Where nothing is known of a retry, the problem says nothing of it; at once is one second."""
    assert "retry_after" not in timeout(retry_after=None).to_problem()
    assert timeout(retry_after=0.0).to_problem()["retry_after"] == 1


def test_reasons_are_all_spoken():
    """Every reason makes an error with a message, a problem and a type of its own."""
    types = {CheckoutTimeout(reason=r, waited=0.0, retry_after=None, snapshot=snapshot()).to_problem()["type"] for r in Reason}
    assert len(types) == len(Reason)
