"""Deals the samples of one engine's pool to those who count them: to each of them each sample, once. It counts nothing."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORGOTTEN", "SAMPLES_KEPT", "Sample", "Samples", "Share", "take"]

SAMPLES_KEPT: Final = 16_384
"""Samples that wait for one who counts them, at most: about 1.8 MB."""

FORGOTTEN: Final = 256
"""Samples to forget at once while nobody counts them, so that only few checkouts pay for it."""

Sample = tuple[float, float]
"""(wait time, use time) of an ended lease, in seconds."""


_BATCH: Final = 32
"""Samples to deal at once for a checkout that has found too many, so that only few checkouts pay for it."""

_joining = threading.Lock()
"""Against two who would both be the first; made anew in a forked child, where nobody would ever let go of it."""


class Share:
    """What one who counts has still to take."""

    __slots__ = ("queue", "spill")

    def __init__(self, queue: deque[Sample], spill: Callable[[deque[Sample]], object]) -> None:
        self.queue = queue
        """The oldest sample is the first; whoever takes it takes it out. Look it up each time: it changes when another one joins."""
        self.spill = spill
        """Takes some samples out of a queue when there are too many."""


class Samples:
    """
    One pool's samples, which leases append to a queue, and a share for each who counts them.

    As long as there is only one he takes them from that queue itself, and nothing is dealt.
    Samples need no lock: each step is one of the interpreter, and samples that are being dealt by one thread reach the shares a moment later.
    """

    __slots__ = ("_dealing", "_fresh", "_shares")

    def __init__(self, fresh: deque[Sample]) -> None:
        self._fresh = fresh
        self._shares: tuple[Share, ...] = ()
        self._dealing: deque[None] = deque()
        """A token for each thread that has samples in its hand."""

    def join(self, spill: Callable[[deque[Sample]], object]) -> Share:
        """
        Have every sample from now on, and those that nobody has taken yet.

        Args:
            spill: takes some out of a queue that has grown too long. It is called by a checkout, and must neither raise nor take long.
        """
        with _joining:
            for other in self._shares:  # at most one has the fresh ones to itself
                other.queue = deque() if other.queue is self._fresh else other.queue
            share = Share(deque() if self._shares else self._fresh, spill)
            self._shares += (share,)
            return share

    def deal(self, most: int | None = None) -> None:
        """Hand out the fresh samples, or so many of them; to be called before a share is looked at."""
        shares = self._shares
        if len(shares) > 1:
            self._dealing.append(None)  # first: whoever sees neither sample nor token misses none
            try:
                hand = take(self._fresh, len(self._fresh) if most is None else most)
                for share in shares:
                    share.queue.extend(hand)
            finally:
                self._dealing.pop()
            for share in shares:
                _relieve(share)

    @property
    def is_dealt(self) -> bool:
        """Whether no thread has samples in its hand just now, which are to reach the shares."""
        return not self._dealing

    def forget(self) -> None:
        """Forget who was dealing, in a forked child: that thread is the parent's."""
        self._dealing.clear()

    def spill(self, fresh: deque[Sample]) -> None:
        """Make room for one more: a checkout has found too many."""
        if len(self._shares) == 1:
            self._shares[0].spill(fresh)
        elif self._shares:
            self.deal(_BATCH)
        else:
            take(fresh, FORGOTTEN)


def _relieve(share: Share) -> None:
    """Have a share spilled that has grown too long."""
    for _ in range(len(share.queue) - SAMPLES_KEPT):
        if len(share.queue) <= SAMPLES_KEPT:  # it spills several at a time
            return
        share.spill(share.queue)


def take(samples: deque[Sample], most: int) -> list[Sample]:
    """Take out the oldest ones; where another thread takes them too, those that it does not."""
    taken: list[Sample] = []
    with contextlib.suppress(IndexError):  # there are no more; what was taken before is in the list
        taken.extend(islice(iter(samples.popleft, None), most))
    return taken


def _forked() -> None:
    global _joining  # noqa: PLW0603 - as it says above
    _joining = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
