"""For how long one connection was seen idle in its holder's hands, and for what. Times are passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sqla_poolguard._facts import Site

__all__ = ["Gap", "Gaps"]

_MOST: Final = 16


class Gap(NamedTuple):
    """A stretch of a hold in which every sample saw the holder await the same."""

    since: float
    """When it was seen first, on the pool's clock. It began after the sample before that."""
    seconds: float
    """From the first sample to the last that saw it: it lasted at least so long."""
    current: Site | None
    awaiting: str | None


class Gaps:
    """The gaps of one hold, the longest of them."""

    __slots__ = ("_line", "_seen", "_since", "found", "left_out")

    def __init__(self) -> None:
        self.found: list[Gap] = []
        """Those that are over."""
        self.left_out = 0
        """How many more there were, each shorter."""
        self._line: tuple[Site | None, str | None] | None = None
        self._since = self._seen = 0.0

    def see(self, now: float, current: Site | None, awaiting: str | None) -> None:
        """Note what a sample sees the holder of an idle connection await; None for nothing."""
        if awaiting is None:
            self.end()
            return
        if self._line != (current, awaiting):
            self.end()
            self._line, self._since = (current, awaiting), now
        self._seen = now

    def end(self) -> None:
        """Note that the connection is in use, or its holder awaits nothing."""
        if self._line is None:
            return
        gap = Gap(self._since, self._seen - self._since, *self._line)
        self._line = None
        if gap.seconds <= 0:  # one sample alone tells of no time
            return
        self.found.append(gap)
        if len(self.found) > _MOST:
            self.found.remove(min(self.found, key=lambda each: each.seconds))
            self.left_out += 1

    def close(self) -> list[Gap]:
        """Give all gaps of a hold that ends, in their order."""
        self.end()
        return self.found
