"""Programs from Debian's packages, brought without root and without installing them; where they cannot be had, tests fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class NotToBeHadError(RuntimeError):
    """A package could not be downloaded; the message says what apt said."""


def unpacked(package: str) -> Path:
    """
    Give the folder in which a package is unpacked; kept for the next time, under `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        NotToBeHadError: there is no apt, or it has no such package.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqla-poolguard-tests"
    cache.mkdir(parents=True, exist_ok=True)
    there = cache / package
    if not there.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = _unpack(package, Path(folder))
            try:
                made.rename(there)
            except OSError:  # another process was faster
                if not there.exists():
                    raise
    return there


def _unpack(package: str, folder: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        message = (
            f"the package {package!r} is needed, and there is no apt-get or no dpkg: these tests run on Debian and its relatives"
        )
        raise NotToBeHadError(message)
    own = folder / "apt"
    (own / "lists" / "partial").mkdir(parents=True)
    (own / "cache" / "archives" / "partial").mkdir(parents=True)
    lists = ["-o", f"Dir::State::lists={own / 'lists'}", "-o", f"Dir::Cache={own / 'cache'}"]
    try:
        _run("apt-get", "download", package, cwd=folder)
    except NotToBeHadError:  # the machine's own lists are missing or old
        _run("apt-get", *lists, "update", cwd=folder)
        _run("apt-get", *lists, "download", package, cwd=folder)
    (archive,) = folder.glob("*.deb")
    _run("dpkg", "-x", str(archive), str(folder / "root"), cwd=folder)
    return folder / "root"


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        message = f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise NotToBeHadError(message)
