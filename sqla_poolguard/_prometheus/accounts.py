"""The accounts of all pools of the process, one for each name. It is made when somebody first wants to look, and then goes on."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from sqla_poolguard import _naming
from sqla_poolguard._prometheus.account import Account

if TYPE_CHECKING:
    from sqla_poolguard._ledger import Ledger

__all__ = ["Accounts", "accounts"]


class Accounts:
    """
    Every pool's account, by name.

    A name stays although its engine was collected, for a counter must not vanish. Engines with ever new names make it grow.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Account] = {}
        _naming.listen(self._open)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def all(self) -> list[Account]:
        """Give every account, the oldest name first."""
        return list(self._by_name.values())

    def _open(self, name: str, ledger: Ledger) -> None:
        account = self._by_name.get(name)
        if account is None:
            self._by_name[name] = Account(name, ledger)
        else:
            account.go_on(ledger)

    def _forget(self) -> None:
        for account in self.all():
            account.forget()


@functools.cache
def accounts() -> Accounts:
    """Give the accounts of this process; from the first call on, all that is counted is kept."""
    return Accounts()
