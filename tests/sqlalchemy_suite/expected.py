"""The deviations that are meant, each with its reason. One that no longer occurs must go: the runner says so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, NamedTuple

__all__ = ["EXPECTED", "Deviation", "Known", "known_for"]


class Deviation(NamedTuple):
    """A test that ended in another way than with the stock class."""

    suite: str
    test: str
    stock: str
    ours: str
    message: str


class Known(NamedTuple):
    """A deviation that is meant."""

    suites: str
    """Words: the suites in which it occurs."""
    test: str
    """A pattern of test ids."""
    message: str
    """A pattern of the first line of the failure, so that nothing else hides behind the reason."""
    reason: str

    def applies(self, suite: str) -> bool:
        """Tell whether it is to be expected in this suite."""
        return suite in self.suites.split()

    def explains(self, deviation: Deviation) -> bool:
        """Tell whether it is this deviation."""
        return (
            deviation.ours == "failed"
            and self.applies(deviation.suite)
            and fnmatchcase(deviation.test, self.test)
            and fnmatchcase(deviation.message, self.message)
        )


_EMPTY: Final = (
    "a connection that broke or was invalidated leaves a free slot, which goes to the next who waits; "
    "the stock pool keeps an empty record and counts it as an idle connection"
)
_THREADS: Final = "blocks a thread until a connection comes back; GuardedPool is for asyncio and waits in an event loop only"
_WHITE_BOX: Final = "looks into the stock pool's queue (`_pool`) or compares its `__dict__`"
_RECORD_INFO: Final = _EMPTY + "; `record_info` goes with the record"
_PATCHED: Final = "patches `_ConnectionRecord.checkout`, which the fast lane does not call"
_RETIRED: Final = (
    "uses a pool after dispose() and recreate(): a retired pool closes what comes back; the stock pool keeps it open"
)
_COLLECTOR: Final = (
    "expects debug lines from inside the garbage collector; the fast lane writes none there, and reports the leak afterwards"
)

_POOL: Final = "test/engine/test_pool.py::"

EXPECTED: Final[tuple[Known, ...]] = (
    Known("postgresql sqlite", "*::PrePingRealTest*::test_pre_ping_db_stays_shutdown", "AssertionError: 0 != 1", _EMPTY),
    Known("forced", _POOL + "QueuePoolTest::test_error_on_pooled_reconnect_cleanup_*", "AssertionError: -1 != 0", _EMPTY),
    Known("forced", _POOL + "QueuePoolTest::test_invalidate_close_interrupted", "AssertionError: 0 != 1", _EMPTY),
    Known(
        "forced", _POOL + "QueuePoolTest::test_reset_interrupted_detaches_fairy", "*: (None, None, 0) != (None, None, 1)", _EMPTY
    ),
    Known("forced", "*::PrePingMockTest::test_ping_not_on_reconnect", "*GuardedRecord * is not *GuardedRecord *", _EMPTY),
    Known("forced", _POOL + "PoolTest::test_rec_info", "AssertionError: None", _RECORD_INFO),
    Known("forced", _POOL + "QueuePoolTest::test_notify_waiters", "AssertionError: [[]1] != [[]1, 1, 2, 2, 2, 2, 2]", _THREADS),
    Known("forced", _POOL + "QueuePoolTest::test_timeout", "*MissingGreenlet*", _THREADS),
    Known("forced", _POOL + "QueuePoolTest::test_timeout_race", "assert 0 > 0", _THREADS),
    Known("forced", _POOL + "QueuePoolTest::test_timeout_subsecond_precision", "*MissingGreenlet*", _THREADS),
    Known("forced", _POOL + "QueuePoolTest::test_waiters_handled", "*successes: *", _THREADS),
    Known("forced", _POOL + "PoolTest::test_recreate_state*", "*: {'_orig_logging_name': *", _WHITE_BOX),
    Known("forced", _POOL + "PoolTest::test_recreate_state*", "*no attribute '_pool'*", _WHITE_BOX),
    Known(
        "forced", _POOL + "QueuePoolTest::test_connect_checkout_handler_always_gets_info", "*no attribute '_pool'*", _WHITE_BOX
    ),
    Known("forced", _POOL + "QueuePoolTest::test_connect_handler_not_called_for_recycled", "*no attribute '_pool'*", _WHITE_BOX),
    Known("forced", "*::MockReconnectTest::test_dialect_initialize_retry_if_exception", "*no attribute '_pool'*", _WHITE_BOX),
    Known("forced", _POOL + "QueuePoolTest::test_connrec_invalidated_within_checkout_no_race", "*Mock* is not None", _PATCHED),
    Known(
        "forced",
        _POOL + "PoolDialectTest::test_queue_pool",
        "*: ['R', 'CL', 'R', 'CL'] != ['R', 'CL', 'R']".replace("[", "[[]"),
        _RETIRED,
    ),
    Known("forced", "*::PoolLoggingTest::test_queuepool_*", "*Created new connection*", _COLLECTOR),
)


def known_for(deviation: Deviation) -> Known | None:
    """Find the deviation among those that are meant; None: it is not."""
    return next((known for known in EXPECTED if known.explains(deviation)), None)
