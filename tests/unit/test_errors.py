"""What a caller may catch: the message, the data, the problem document, and the way through a pickle."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import sqlalchemy.exc

from sqla_poolguard import (
    CheckoutError,
    CheckoutRejected,
    CheckoutTimeout,
    DatabaseUnavailable,
    Downtime,
    Holder,
    NoConnectionError,
    PoolSnapshot,
    Reason,
    Site,
)


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


REFUSED = ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 5432)")


def unavailable(cause=REFUSED, downtime=None, waited=0.0, retry_after=3.2):
    """Give the error of a newcomer in an outage."""
    downtime = downtime or Downtime(lasted=3.2, fails=5, error_age=0.4, next_try=0.8)
    return DatabaseUnavailable(
        cause=cause, downtime=downtime, waited=waited, retry_after=retry_after, snapshot=snapshot(waiting=2)
    )


class UnpicklableError(Exception):
    """A driver's error with a lock in it, so to speak."""

    def __reduce__(self):
        """Refuse."""
        msg = "cannot pickle"
        raise TypeError(msg)


class TalkativeError(Exception):
    """Comes out of a pickle as something else."""

    def __init__(self, one, two=""):
        super().__init__(f"{one}{two}!")


class SilentError(Exception):
    """Has no text."""

    def __str__(self):
        """Refuse."""
        raise RuntimeError


def test_unavailable_fits_existing_handlers():
    """It is SQLAlchemy's OperationalError, with its code and link, about no statement; and no error of a checkout."""
    error = unavailable()
    assert isinstance(error, sqlalchemy.exc.OperationalError)
    assert isinstance(error, sqlalchemy.exc.DBAPIError)
    assert isinstance(error, NoConnectionError)
    assert not isinstance(error, (CheckoutError, sqlalchemy.exc.TimeoutError))
    assert (error.code, error.statement, error.params, error.connection_invalidated) == ("e3q8", None, None, False)
    assert str(error).count("Background on this error") == 1
    assert str(error).rstrip().endswith("e3q8)")


def test_unavailable_has_its_cause():
    """The last error of connecting is there, and is shown below the traceback."""
    error = unavailable()
    assert error.orig is error.__cause__ is REFUSED
    if hasattr(error, "driver_exception"):  # SQLAlchemy 2.1
        assert error.driver_exception is REFUSED
    with pytest.raises(DatabaseUnavailable) as caught:
        raise error
    assert caught.value.__cause__ is REFUSED


def test_unavailable_data():
    """Everything in the message is there as data too."""
    error = unavailable(waited=0.5)
    assert (error.status_code, error.reason, error.waited, error.retry_after) == (503, "unavailable", 0.5, 3.2)
    assert (error.snapshot.waiting, error.downtime.fails) == (2, 5)


@pytest.mark.parametrize(
    ("downtime", "waited", "begins", "ends"),
    [
        (
            Downtime(lasted=3.2, fails=5, error_age=0.4, next_try=0.8),
            0.0,
            "no connection: the database cannot be reached: pool 'orders' 10+5, 0 out, 0 idle, 2 waiting; last error 0.4 s ago: ",
            "; tried 5 times in 3.2 s; next attempt in 0.8 s",
        ),
        (
            Downtime(lasted=0.3, fails=1, error_age=0.3, next_try=None),
            1.0,
            "no connection after 1.00 s: the database cannot be reached: pool 'orders' 10+5, 0 out, 0 idle, 2 waiting; last error 0.3 s ago: ",
            "; tried once in 0.3 s; an attempt is under way",
        ),
        (
            Downtime(lasted=0.4, fails=0, error_age=None, next_try=None),
            0.0,
            "no connection: the database cannot be reached: pool 'orders' 10+5, 0 out, 0 idle, 2 waiting; no answer yet: ",
            "; an attempt is under way",
        ),
    ],
)
def test_unavailable_message(downtime, waited, begins, ends):
    """What is wrong, with the evidence, and when it is looked at again."""
    error = unavailable(downtime=downtime, waited=waited)
    assert error.args == (f"{begins}ConnectionRefusedError: [Errno 111] Connect call failed ('10.0.0.7', 5432){ends}",)


@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        (TimeoutError(), "ago: TimeoutError; tried"),
        (OSError("down\n[SQL: select secret]\n(Background on this error at: x)"), "ago: OSError: down; tried"),
        (OSError("cannot reach postgresql://app:hunter2@p:w/rd@db:5432/x"), "postgresql://***@db:5432/x; tried"),
        (OSError("bad option password=hunter2 in there"), "bad option password=*** in there; tried"),
        (OSError("x" * 1000), f"OSError: {'x' * 200}; tried"),
        (SilentError(), "ago: SilentError: (no text: RuntimeError); tried"),
    ],
)
def test_unavailable_quotes_the_cause(cause, shown):
    """Its first line, not more of it than can be read, and no password."""
    message = str(unavailable(cause))
    assert shown in message
    assert "hunter2" not in message
    assert "SQL" not in message


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    ("cause", "kept"),
    [(REFUSED, ConnectionRefusedError), (UnpicklableError("locked"), RuntimeError), (TalkativeError("a", "b"), RuntimeError)],
)
def test_unavailable_pickle_and_copy(through, cause, kept):
    """It is the same in every part; a cause that cannot be pickled becomes an error that says the same."""
    error = unavailable(cause)
    error.add_detail("during a test")
    twin = through(error)
    assert twin is not error
    assert type(twin) is DatabaseUnavailable
    assert (str(twin), twin.to_problem()) == (str(error), error.to_problem())
    assert (twin.reason, twin.waited, twin.retry_after, twin.snapshot, twin.downtime) == (
        error.reason,
        error.waited,
        error.retry_after,
        error.snapshot,
        error.downtime,
    )
    assert twin.orig is twin.__cause__
    assert type(twin.orig) is kept
    assert str(cause) in str(twin.orig)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_unavailable_every_pickle_protocol(protocol):
    """Old protocols do too."""
    assert str(pickle.loads(pickle.dumps(unavailable(), protocol))) == str(unavailable())


def test_unavailable_problem_tells_no_internals():
    """A client learns that the database is away, and no address, figure or name."""
    problem = unavailable().to_problem()
    assert problem == {
        "type": "tag:sqla-poolguard,2026:unavailable",
        "title": "The database cannot be reached",
        "status": 503,
        "detail": "The service cannot reach its database at the moment.",
        "reason": "unavailable",
        "retry_after": 4,
    }
    assert "10.0.0.7" not in json.dumps(problem)


@pytest.mark.parametrize("kind", [CheckoutTimeout, CheckoutRejected, DatabaseUnavailable])
def test_one_handler_for_all(kind):
    """All that are to become a 503 have one superclass, with the same attributes."""
    assert issubclass(kind, NoConnectionError)
    assert kind.status_code == 503
