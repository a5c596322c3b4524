"""Programs out of Debian's packages, for tests, with no rights: fetched once with the machine's own apt, unpacked, not installed.

Knows no mirror: it asks apt which one this machine uses. What was fetched stays in the temp folder for the tests to come.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SCRIPT = """#!/bin/sh
exec "{loader}" --library-path "{libraries}" "{program}" "$@"
"""


def fetch(name: str, release: str, packages: list[str]) -> Path:
    """
    Unpack packages of a release into a folder of their own, unless that was done before.

    Args:
        name: of the folder.
        release: Debian's codename for it, such as "bookworm".
        packages: by name; what they depend on is not added.

    Returns:
        The folder, as if it were `/`.
    """
    place = Path(tempfile.gettempdir(), f"poolguard-debian-{os.geteuid()}")
    place.mkdir(mode=0o755, exist_ok=True)
    if place.stat().st_uid != os.geteuid():
        msg = f"{place} is somebody else's: remove it, or set TMPDIR"
        raise PermissionError(msg)
    root = place / name
    with (place / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            half = place / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            _unpack(half, _lists(place, release), packages)
            half.rename(root)
    return root


def script(program: Path, root: Path, at: Path) -> Path:
    """Write a script that runs a program of a fetched release with the libraries of that release, and with its C library."""
    libraries = sorted({str(path.parent) for path in root.rglob("*.so.*")})
    loader = next(path for path in sorted(root.rglob("ld-linux*.so*")) if path.exists())
    at.parent.mkdir(parents=True, exist_ok=True)
    half = at.with_suffix(f".{os.getpid()}")
    half.write_text(SCRIPT.format(loader=loader, libraries=":".join(libraries), program=program))
    half.chmod(0o755)
    return half.rename(at)


def _lists(place: Path, release: str) -> list[str]:
    """Bring the list of a release's packages, as a state of its own of apt; gives the options with which apt uses it."""
    state = place / f"apt-{release}"
    for folder in ("sources", "lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    own = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages").splitlines()
    mirror = next(uri for uri, _, suite in (line.partition(" ") for line in own) if "-" not in suite)
    signed = f"Signed-By: {KEYS}\n" if KEYS.exists() else ""
    source = f"Types: deb\nURIs: {mirror}\nSuites: {release}\nComponents: main\n{signed}"
    (state / "sources" / "one.sources").write_text(source)
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": state / "sources",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    given = [f"-o{name}={value}" for name, value in options.items()]
    _run("apt-get", *given, "update", "-qq")
    return given


def _unpack(root: Path, options: list[str], packages: list[str]) -> None:
    files = root / "packages"
    files.mkdir(parents=True)
    _run("apt-get", *options, "download", "-qq", *packages, cwd=files)
    for file in files.iterdir():
        _run("dpkg", "-x", str(file), str(root))
    shutil.rmtree(files)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=240)
    if done.returncode:
        msg = f"{' '.join(command[:1])} failed: {done.stderr.strip()[-500:]}"
        raise RuntimeError(msg)
    return done.stdout
