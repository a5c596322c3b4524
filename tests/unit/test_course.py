"""The course of a wait and the gaps of a hold: what is kept of them, and that it is bounded."""

from __future__ import annotations

from sqla_poolguard import Site
from sqla_poolguard._course import CONNECT, PING, QUEUE, Course
from sqla_poolguard._gaps import Gaps

HERE, THERE = Site("/app/a.py", 1, "f"), Site("/app/a.py", 2, "f")


def test_each_phase_ends_where_the_next_begins():
    """Phases follow one another without a hole; the last one ends with the wait."""
    course = Course()
    course.begin(QUEUE, 10.0)
    course.begin(QUEUE, 11.0)
    course.begin(PING, 13.0)
    course.begin(CONNECT, 13.5)
    course.begin(QUEUE, 14.0)
    assert course.phases(16.0) == [("queue", 10.0, 3.0), ("ping", 13.0, 0.5), ("connect", 13.5, 0.5), ("queue", 14.0, 2.0)]
    assert course.queued(16.0) == 5.0
    assert course.in_queue


def test_a_course_is_bounded():
    """However often it has to begin anew, no more than some phases are kept, and the last goes on to the end."""
    course = Course()
    for turn in range(1000):
        course.begin((QUEUE, CONNECT)[turn % 2], float(turn))
    assert len(course.phases(2000.0)) == 32
    assert course.phases(2000.0)[-1].seconds == 1969.0


def test_nothing_has_happened_yet():
    """A request that was served at once has no phases, and was not in the queue."""
    course = Course()
    assert (course.phases(1.0), course.queued(1.0), course.in_queue) == ([], 0.0, False)


def test_gaps_are_what_samples_saw():
    """A gap goes from the first sample to the last that saw the same; one sample alone tells of no time."""
    gaps = Gaps()
    for now in (1.0, 1.5, 2.0):
        gaps.see(now, HERE, "httpx get")
    gaps.see(2.5, THERE, "asyncio sleep")
    gaps.see(3.0, THERE, "asyncio sleep")
    gaps.see(3.5, HERE, None)  # it runs
    gaps.see(4.0, HERE, "httpx get")
    gaps.end()  # the database
    gaps.see(5.0, HERE, "httpx get")
    gaps.see(5.5, HERE, "httpx get")
    assert gaps.close() == [(1.0, 1.0, HERE, "httpx get"), (2.5, 0.5, THERE, "asyncio sleep"), (5.0, 0.5, HERE, "httpx get")]
    assert gaps.left_out == 0


def test_the_longest_gaps_are_kept():
    """Of many gaps the sixteen longest are kept, in their order; the others are counted."""
    gaps = Gaps()
    for number in range(40):
        gaps.see(100.0 * number, HERE, "x")
        gaps.see(100.0 * number + 1 + number % 20, HERE, "x")
        gaps.end()
    kept = gaps.close()
    assert [gap.since for gap in kept] == sorted(gap.since for gap in kept)
    assert sorted(gap.seconds for gap in kept) == sorted([*range(13, 21), *range(13, 21)])
    assert gaps.left_out == 24
