"""Where the sockets of inspected processes are: a folder that only its user can enter. It knows no pool."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLDER_VARIABLE", "UnsafeFolderError", "folder", "pid_of", "prepare", "socket_of"]

FOLDER_VARIABLE: Final = "POOLGUARD_INSPECT_DIR"
_SUFFIX: Final = ".sock"
_OTHERS: Final = 0o077


class UnsafeFolderError(Exception):
    """The folder is not ours alone; the message says why."""


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Give the folder: that of POOLGUARD_INSPECT_DIR, else `poolguard` in XDG_RUNTIME_DIR, else one named after the user in the temp folder."""
    if environment.get(FOLDER_VARIABLE):
        return Path(environment[FOLDER_VARIABLE])
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "poolguard"
    return Path(tempfile.gettempdir()) / f"poolguard-{os.getuid()}"


def prepare(path: Path) -> None:
    """
    Make the folder if it is not there, and see that nobody else can enter it, or has put something else in its place.

    Raises:
        UnsafeFolderError: it is not a folder of ours alone.
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=False)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        msg = f"{path} is not a folder"
        raise UnsafeFolderError(msg)
    if found.st_uid != os.getuid():
        msg = f"{path} belongs to somebody else"
        raise UnsafeFolderError(msg)
    if found.st_mode & _OTHERS:
        msg = f"{path} can be entered by others; it should have mode 0700"
        raise UnsafeFolderError(msg)


def socket_of(path: Path, pid: int) -> Path:
    """Give the socket of a process."""
    return path / f"{pid}{_SUFFIX}"


def pid_of(path: Path) -> int | None:
    """Give the process of a socket; None if the file is something else."""
    stem = path.name.removesuffix(_SUFFIX)
    return int(stem) if path.name.endswith(_SUFFIX) and stem.isascii() and stem.isdigit() else None
