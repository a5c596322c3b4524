"""Where the figures come from: the sockets of this machine's inspected processes, or the debug page of one application."""

from __future__ import annotations

import json
import os
import socket
import stat
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from sqla_poolguard import _runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Process", "TopError", "from_page", "from_sockets", "parse_headers"]

_PATIENCE: Final = 2.0
_MOST_BYTES: Final = 32_000_000
_NOT_THERE: Final = "the page is not there, or not for you (see `allow` of debug_page, and --header)"
_KEYS: Final = {"pool", "pool_size", "max_overflow", "idle", "used", "connecting", "waiting", "holders", "waiters"}


class TopError(Exception):
    """It cannot run; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process, or one page, told."""

    name: str
    """For a person: number and program of the process, or where the page is."""
    pools: tuple[Mapping[str, Any], ...] = ()
    trouble: str | None = None
    """Why it told nothing, or what is wrong with it as a whole."""


def from_sockets(pids: Iterable[int]) -> list[Process]:
    """
    Ask the processes of this user that have `Guard(inspect=True)`.

    Args:
        pids: which; none means all there are.

    Raises:
        TopError: one that was named cannot be found, or the folder of the sockets is not ours alone.
    """
    if not hasattr(socket, "AF_UNIX"):
        msg = "there are no local sockets on this system; name a debug page with --url"
        raise TopError(msg)
    folder = _runtime.folder()
    wanted = list(pids)
    found = {pid: path for path in _sockets(folder) if (pid := _runtime.pid_of(path)) is not None}
    for pid in wanted:
        if pid not in found:
            msg = f"no process {pid} has a socket in {folder}: it needs Guard(inspect=True), the same user and an open connection"
            raise TopError(msg)
    asked = [_ask(pid, found[pid]) for pid in sorted(wanted or found)]
    told = [process for process in asked if process is not None]
    if not told:
        msg = (
            f"no process to look at: none has a socket in {folder}. Give its engine Guard(inspect=True), run top as the same user "
            f"(with the same {_runtime.FOLDER_VARIABLE}, if that is set), or name a debug page with --url"
        )
        raise TopError(msg)
    return told


def _sockets(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    try:
        _runtime.prepare(folder)
        return [path for path in folder.iterdir() if stat.S_ISSOCK(path.lstat().st_mode)]
    except (_runtime.UnsafeFolderError, OSError) as error:
        raise TopError(str(error)) from error


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _ask(pid: int, path: Path) -> Process | None:
    """Ask a process; None if it does not listen; if it is not there any more, what it left is removed."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_PATIENCE)
            asking.connect(str(path))
            parts = []
            while part := asking.recv(65_536):
                parts.append(part)
    except (ConnectionRefusedError, FileNotFoundError):
        if not _lives(pid):  # one that is about to listen refuses, too
            with suppress(OSError):
                path.unlink()
        return None
    except OSError as error:
        return Process(f"{pid}", trouble="it does not answer" if isinstance(error, TimeoutError) else str(error))
    told = _read(b"".join(parts), f"process {pid}")
    trouble = "its event loop stands still; what is shown was seen last" if told.get("stands_still") else None
    return Process(f"{pid} {told.get('program', '')}".strip(), tuple(told["pools"]), trouble)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A header with a token is not for another address."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def from_page(url: str, headers: Mapping[str, str]) -> list[Process]:
    """
    Ask an application's debug page (`sqla_poolguard.asgi.debug_page`) for its JSON.

    Raises:
        TopError: it cannot be had.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        msg = f"--url {url!r} is not allowed; allowed: an address that begins with http:// or https://"
        raise TopError(msg)
    query = [*(pair for pair in urllib.parse.parse_qsl(parts.query) if pair[0] not in {"format", "refresh"}), ("format", "json")]
    address = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(query), fragment=""))
    shown = f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, headers={"Accept": "application/json", **headers})  # noqa: S310 - http, as checked
    try:
        with opener.open(request, timeout=_PATIENCE * 2) as answer:
            body = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            why = _NOT_THERE if error.code == HTTPStatus.NOT_FOUND else error.reason
        msg = f"{shown} answered {error.code}: {why}"
        raise TopError(msg) from None
    except (OSError, ValueError) as error:
        msg = f"{shown} cannot be reached: {getattr(error, 'reason', error)}"
        raise TopError(msg) from None
    return [Process(shown, tuple(_read(body, shown)["pools"]))]


def parse_headers(lines: Iterable[str]) -> dict[str, str]:
    """Read `Name: value` lines; the values are secrets, and not shown."""
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or any(character in line for character in "\r\n"):
            msg = "a --header is not allowed; allowed: a name, a colon and a value, such as 'Authorization: Bearer …'"
            raise TopError(msg)
        headers[name.strip()] = value.strip()
    return headers


def _read(body: bytes, where: str) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    pools = told.get("pools") if isinstance(told, dict) else None
    if not isinstance(pools, list) or not all(isinstance(pool, dict) and pool.keys() >= _KEYS for pool in pools):
        msg = f"{where} answered, but not with the JSON of a debug page or of a socket"
        raise TopError(msg)
    return told  # type: ignore[no-any-return] # a dict, as its pools show
