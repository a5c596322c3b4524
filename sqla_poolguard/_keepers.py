"""Asks the garbage collector who keeps a connection that no task shows. Not often: it goes through all objects that there are."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _reach
from sqla_poolguard._holds import OPTION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqla_poolguard._callsite import Place
    from sqla_poolguard._record import GuardedRecord
    from sqla_poolguard._streak import Streak

__all__ = ["know_keepers"]

_SHARE: Final = 0.05
"""Of the time that may be spent asking, in the long run."""
_CREDIT: Final = 0.5
"""Seconds that may be spent at once, after a quiet time."""
_VALID: Final = 60.0
"""Seconds for which what was found of one lease goes for all those from the same line, if it declares nothing."""
_MOST_LINES: Final = 1000

_spent: Final = [0.0, 0.0]
"""Seconds of the credit that are used up, and when that was so."""
_plain: Final[dict[Place | None, float]] = {}
"""Lines at which connections are checked out that declare nothing, and until when that is believed."""


def know_keepers(leases: Iterable[tuple[GuardedRecord, Streak]]) -> None:
    """Find out, of every lease for which that is not known, who keeps its connection; unless it was asked just now."""
    now = time.monotonic()
    asked = []
    for record, streak in leases:
        fairy = record.fairy_ref() if record.fairy_ref is not None else None
        if streak.keeper is not None or fairy is None:
            continue
        if now < _plain.get(record.lease.place, 0.0):
            streak.keeper = _nobody
        else:
            asked.append((fairy, streak, record.lease.place))
    used = max(_spent[0] - _SHARE * (now - _spent[1]), 0.0)
    if not asked or used > _CREDIT:
        return
    found = _reach.keepers([fairy for fairy, _, _ in asked])
    ended = time.monotonic()
    _spent[:] = used + ended - now, ended
    if len(_plain) > _MOST_LINES:
        _plain.clear()
    for fairy, streak, place in asked:
        keeper = found.get(id(fairy))
        streak.keeper = weakref.ref(keeper) if keeper is not None else _nobody
        if keeper is None or _reach.option_of(keeper, OPTION) is None:
            _plain[place] = ended + _VALID


def _nobody() -> Any:
    """Stand for a reference to who keeps it, where nobody was found, or need be."""
    return None
