"""`--from`: find out what it names, and read it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqla_poolguard._cli.size import exposition, page
from sqla_poolguard._cli.size.fetching import NoSuchPageError, get
from sqla_poolguard._cli.size.trouble import SizeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqla_poolguard._cli.size.measured import Measured

__all__ = ["read_from"]


def read_from(places: Iterable[str], *, pool: str | None, watch: float, window: str) -> list[Measured]:
    """
    Read all that `--from` names.

    Args:
        places: `postgresql://…`, `http(s)://…` of a debug page, of a page of metrics or of a Prometheus, or files with saved debug pages.
        pool: name of the pool, where there are several.
        watch: seconds to watch a process for.
        window: of a Prometheus, such as "1d".

    Raises:
        SizeError: one of them could not be read.
    """
    found, saved = [], []
    for place in places:
        scheme = place.partition("://")[0].partition("+")[0] if "://" in place else ""
        if scheme in {"postgresql", "postgres"}:
            found.append(_server(place))
        elif scheme in {"http", "https"}:
            shown = place.partition("://")[2].partition("?")[0].rpartition("@")[2].rstrip("/")  # no password, no token
            with _understood(shown):
                found.append(_web(place, pool, watch, window, shown))
        elif scheme:
            msg = (
                f"--from {scheme}://… is not allowed; allowed: postgresql://, http://, https://, or files with saved debug pages"
            )
            raise SizeError(msg)
        else:
            saved.append(_file(place))
    if saved:
        if len(saved) == 1:
            msg = "one saved debug page tells no rate; give two or more of the same process: --from a.json --from b.json"
            raise SizeError(msg)
        with _understood(f"{len(saved)} saved debug pages"):
            pages = sorted(((page.moment(each), each) for each in saved), key=itemgetter(0))
            found.append(page.measure(pages, pool, f"{len(pages)} saved debug pages"))
    return found


def _server(dsn: str) -> Measured:
    try:
        from sqla_poolguard._cli.size.server import ask_server  # noqa: PLC0415 - a driver that may be missing
    except ModuleNotFoundError as error:
        msg = f'--from postgresql://… needs the package {error.name!r}: pip install "sqla-poolguard[cli]"; or give --max-connections'
        raise SizeError(msg) from error
    return ask_server(dsn)


@contextmanager
def _understood(source: str) -> Iterator[None]:
    """Say so, where what was read is not what it seemed to be."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = f"{source} cannot be understood: {type(error).__name__} {error}"
        raise SizeError(msg) from error


def _web(url: str, pool: str | None, watch: float, window: str, source: str) -> Measured:
    try:
        first = get(url)
    except NoSuchPageError:
        if not exposition.is_prometheus(url):
            raise
        first = ""
    document = _json(first)
    if isinstance(document, dict) and "pools" in document:
        page.pool_of(document, pool, source)
        return page.measure(page.watch(lambda: json.loads(get(url)), document, watch), pool, source)
    if f"{exposition.NAME}_bucket" in first:
        return exposition.scrape(lambda: get(url), first, watch, pool, source)
    return exposition.ask_prometheus(url, pool, window, source)


def _file(name: str) -> dict[str, Any]:
    try:
        document = _json(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        msg = f"--from {name}: {getattr(error, 'strerror', None) or error}"
        raise SizeError(msg) from error
    if not isinstance(document, dict) or not {"at", "pools"} <= document.keys():
        msg = f"--from {name} is no saved debug page (what it gives as JSON, with `at` and `pools`)"
        raise SizeError(msg)
    return document


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
