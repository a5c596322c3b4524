"""Ask a web address: plain GET, with a limit of time and of size, and errors that say what to do."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

from sqla_poolguard._cli.size.trouble import SizeError

__all__ = ["NoSuchPageError", "get"]

_SECONDS: Final = 10.0
_LARGEST: Final = 32 * 1024 * 1024


class NoSuchPageError(SizeError):
    """Somebody is there, and does not show this page."""


def get(url: str) -> str:
    """
    Give what is at an address.

    Raises:
        NoSuchPageError: another status than 200.
        SizeError: nobody answers, or not in time.
    """
    request = urllib.request.Request(url, headers={"Accept": "application/json, text/plain;q=0.5"})  # noqa: S310 - see below
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - `read_from` lets http and https pass alone
            body: bytes = answer.read(_LARGEST)
    except urllib.error.HTTPError as error:
        hint = "; the debug page shows itself to the same machine only, unless allow= says otherwise" if error.code == 404 else ""  # noqa: PLR2004
        msg = f"{_bare(url)} answers {error.code}{hint}"
        raise NoSuchPageError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{_bare(url)} cannot be read: {getattr(error, 'reason', None) or error}"
        raise SizeError(msg) from error
    return body.decode("utf-8", "replace")


def _bare(url: str) -> str:
    """Leave out a query, and a user with a password."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
