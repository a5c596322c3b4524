"""The book of findings: told once, then counted, told again after a while; bounded; and the verdict on a pool."""

from __future__ import annotations

import pickle

import pytest

from sqla_poolguard import Cause, CheckoutTimeout, Finding, FindingKind, Holder, HolderState, PoolSnapshot, Reason, Site
from sqla_poolguard._findings import REPEAT_AFTER, Findings
from sqla_poolguard._verdict import deadlocked, judge

HERE, THERE = Site("/app/a.py", 1, "f"), Site("/app/a.py", 2, "f")


def finding(site=HERE, current=THERE, kind=FindingKind.HELD_ACROSS_AWAIT, held=3.0):
    """Give a finding."""
    return Finding("p", kind, site, current, "httpx get", held, 2.0, 0.5, 2.0)


def holder(state, in_database=0.0, **more):
    """Give a holder in a state."""
    return Holder("p", HERE, "t", 3.0, 0.0, state=state, in_database=in_database, **more)


def pool(*holders, connecting=0):
    """Give a snapshot with these holders."""
    return PoolSnapshot("p", 5, 10, 0, len(holders), connecting, 3, tuple(holders), ())


def test_told_once_then_counted():
    """The first is told; those that follow at the same lines are counted; after ten minutes it is told with its count."""
    book = Findings()
    assert book.note(finding(), 0.0).count == 1
    assert book.note(finding(), 1.0) is None
    assert book.note(finding(current=HERE), 1.0).count == 1, "another line"
    assert book.note(finding(kind=FindingKind.OVERDUE), 1.0).count == 1, "another kind"
    assert book.note(finding(held=9.0), REPEAT_AFTER).count == 3
    assert book.note(finding(), REPEAT_AFTER + 1) is None
    assert (book.listed()[0].current, book.listed()[0].count) == (THERE, 4)
    book.forget()
    assert book.listed() == ()


def test_book_is_bounded():
    """Lines beyond a thousand are neither told nor kept; those that are known go on being counted."""
    book = Findings()
    told = [book.note(finding(current=Site("/app/a.py", line, "f")), 0.0) for line in range(1500)]
    assert sum(each is not None for each in told) == len(book.listed()) == 1000
    for line in range(1500):
        book.add_waste(Site("/app/a.py", line, "f"), "x", 1.0)
    book.add_waste(Site("/app/a.py", 7, "f"), "x", 1.5)
    assert len(book.waste()) == 1000
    assert (book.waste()[0].site.line, book.waste()[0].seconds) == (7, 2.5)


def test_cpu_is_the_rest():
    """What was neither in the database nor awaiting is CPU, never less than nothing."""
    assert finding(held=3.0).cpu == 0.5
    assert finding(held=1.0).cpu == 0.0


A, D, N, LOST, R = (HolderState(each) for each in ("awaiting", "in_database", "nested", "orphaned", "running"))


@pytest.mark.parametrize(
    ("holders", "connecting", "blocked", "cause", "evidence"),
    [
        ([A, A, D], 0, None, Cause.HELD_ACROSS_AWAIT, "2 of 3 holders await something else"),
        ([A, N, D, D], 0, None, Cause.HELD_ACROSS_AWAIT, "2 of 4 holders await something else"),
        ([LOST, A, D], 0, None, Cause.ORPHANED, "the tasks of 1 of 3 holders have finished"),
        ([D, D, A], 0, None, Cause.SLOW_DATABASE, "2 of 3 holders wait for the database, up to 2.0 s"),
        ([R, R, R], 0, None, Cause.UNDERSIZED, "0 of 3 holders are in the database; held for 3.0 s at most"),
        ([D], 2, None, Cause.DATABASE_UNAVAILABLE, "2 of 3 slots are being connected"),
        ([A, A], 0, (2.0, THERE), Cause.LOOP_BLOCKED, "the event loop stood still for 2.0 s at /app/a.py:2 in f"),
        ([A, A], 0, (0.2, THERE), Cause.HELD_ACROSS_AWAIT, "2 of 2 holders await something else"),
    ],
)
def test_verdict(holders, connecting, blocked, cause, evidence):
    """One cause, with the figures it rests on, and remedies."""
    verdict = judge(pool(*(holder(state, 2.0) for state in holders), connecting=connecting), blocked)
    assert (verdict.cause, verdict.evidence) == (cause, evidence)
    assert verdict.remedies
    assert str(verdict) == f"{cause} ({evidence})"


def test_many_short_queries_are_no_slow_database():
    """Holders in the database, none of them for long."""
    assert judge(pool(holder(D, 0.01), holder(D, 0.02)), None).cause is Cause.UNDERSIZED


def test_no_verdict_without_evidence():
    """Where the driver does not tell what its connections do, nothing is guessed."""
    assert judge(pool(holder(None), holder(None)), None) is None


def test_declared_holds_are_no_cause():
    """A hold that is declared right does not count against its holder."""
    verdict = judge(pool(holder(A, declared="LISTEN"), holder(D, 0.1), holder(D, 0.1)), None)
    assert verdict.cause is Cause.UNDERSIZED


@pytest.mark.parametrize(
    ("within", "remedy"),
    [
        ("starlette StreamingResponse", "before the `StreamingResponse` begins"),
        ("starlette BackgroundTask", "in the background task"),
        ("fastapi dependency", 'Depends(..., scope="function")'),
        ("asyncio gather", "do not share a session with `gather`"),
        ("async generator", "do not `async for` over a generator"),
    ],
)
def test_remedies_know_the_frameworks(within, remedy):
    """What is seen of a framework puts its own remedy first."""
    assert remedy in judge(pool(holder(A, within=(within,)), holder(A)), None).remedies[0]


def test_error_carries_the_verdict_through_a_pickle():
    """The verdict is data, and in the message."""
    verdict = deadlocked(("one", "two"))
    error = CheckoutTimeout(reason=Reason.DEADLOCK, waited=0.1, retry_after=None, snapshot=pool(holder(N)), verdict=verdict)
    again = pickle.loads(pickle.dumps(error))
    assert again.verdict == verdict
    assert str(again) == str(error)
    assert "no connection, after 0.10 s, and never would be: pool 'p'" in str(error)
    assert "verdict: deadlock (all 2 holders wait for this very pool)" in str(error)
