"""An older PostgreSQL than the wheel's: the system's, or the same out of Debian's packages where the system has none."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from doubles.debian import fetch

VERSION = "15"
INSTALLED = Path(f"/usr/lib/postgresql/{VERSION}/bin")
PACKAGES = [
    f"postgresql-{VERSION}",
    "libpq5",
    "libldap-2.5-0",
    "libsasl2-2",
    "libxml2",
    "libicu72",
    "libllvm14",
    "libssl3",
    "libxslt1.1",
]
SCRIPT = """#!/bin/sh
LD_LIBRARY_PATH="{libraries}" exec "{program}" "$@"
"""


@cache
def bindir(installed: Path = INSTALLED) -> Path:
    """Give the folder of PostgreSQL 15's programs."""
    if (installed / "initdb").is_file():
        return installed
    root = fetch(f"postgresql-{VERSION}", "bookworm", PACKAGES)
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("lib*.so.*")}))
    ours = root / "run"
    ours.mkdir(exist_ok=True)
    for name in ("initdb", "postgres"):
        half = ours / f"{name}.{os.getpid()}"
        half.write_text(SCRIPT.format(libraries=libraries, program=root / INSTALLED.relative_to("/") / name))
        half.chmod(0o755)
        half.rename(ours / name)
    return ours
