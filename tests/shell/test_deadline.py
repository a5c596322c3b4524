"""`Deadline`: a timeout for code in a greenlet, which cannot say `async with`."""

from __future__ import annotations

import asyncio

import pytest
from doubles.driver import greenlet_spawn
from doubles.virtual import elapsed
from sqlalchemy.util.concurrency import await_only

from sqla_poolguard._deadline import Deadline, DeadlinePassed


def pause(seconds, within):
    """Sleep in a greenlet, for so long at most."""
    with Deadline(within):
        await_only(asyncio.sleep(seconds))
    return "done"


async def test_in_time():
    """What ends in time ends as it would have."""
    assert await greenlet_spawn(pause, 1, 2) == "done"
    assert elapsed() == 1.0


async def test_passed():
    """What does not is cancelled at the deadline, and the task is not marked as cancelled."""
    with pytest.raises(DeadlinePassed):
        await greenlet_spawn(pause, 3, 2)
    assert elapsed() == 2.0
    assert asyncio.current_task().cancelling() == 0


async def test_no_deadline():
    """Infinity bounds nothing."""
    assert await greenlet_spawn(pause, 10_000, float("inf")) == "done"


async def test_deadline_that_has_passed_already():
    """No time left: what awaits is cancelled in the same moment."""
    for seconds in (0, -5):
        with pytest.raises(DeadlinePassed):
            await greenlet_spawn(pause, 1, seconds)
    assert elapsed() == 0.0


async def test_cancellation_from_elsewhere_goes_through():
    """A cancelled task is cancelled, not timed out."""
    task = asyncio.create_task(greenlet_spawn(pause, 10, 5))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_errors_go_through():
    """An error in time is that error."""

    def fail():
        with Deadline(5):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await greenlet_spawn(fail)


async def test_error_that_a_driver_makes_of_our_cancellation():
    """A driver that turns the cancellation into an error of its own cannot hide that the deadline passed."""

    def work():
        with Deadline(2):
            try:
                await_only(asyncio.sleep(5))
            except asyncio.CancelledError:
                raise ConnectionError from None

    with pytest.raises(DeadlinePassed) as caught:
        await greenlet_spawn(work)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(1)


async def test_nested_deadlines():
    """The nearer deadline is the one that passes, whichever is outside."""

    def work(outer, inner):
        try:
            with Deadline(outer):
                pause(10, inner)
        except DeadlinePassed:
            return "passed"

    for outer, inner in ((2, 3), (3, 2), (2, 2)):
        begun = elapsed()
        assert await greenlet_spawn(work, outer, inner) == "passed"
        assert elapsed() - begun == 2.0
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)


def test_outside_a_task():
    """Where there is no task nothing is bounded, and nothing breaks."""
    with Deadline(0.001):
        pass
