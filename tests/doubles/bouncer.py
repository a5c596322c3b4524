"""A real PgBouncer, old or new, in front of a throw-away PostgreSQL, for as long as a `with` block."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from functools import cache
from typing import TYPE_CHECKING

from doubles.debian import fetch, script
from sqla_poolguard._cli import embedded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from sqla_poolguard._cli.embedded import EmbeddedPostgres

READY_SECONDS = 20.0
LIBRARIES = [
    "libc6",
    "libpam0g",
    "libsystemd0",
    "libcap2",
    "libaudit1",
    "libcap-ng0",
    "libzstd1",
    "zlib1g",
    "liblz4-1",
    "liblzma5",
]
RELEASES = {
    "1.18": ("bookworm", ["libevent-2.1-7", "libc-ares2", "libssl3", "libgcrypt20", "libgpg-error0"]),
    "1.24": ("trixie", ["libevent-2.1-7t64", "libcares2", "libssl3t64"]),
}
"""Debian's release that has each, and the libraries that are not called alike in both."""


@cache
def program(version: str) -> Path:
    """Give the program, fetched if need be: "1.18" knows no prepared statements in transaction mode, "1.24" does."""
    release, libraries = RELEASES[version]
    root = fetch(f"pgbouncer-{version}", release, ["pgbouncer", *LIBRARIES, *libraries])
    return script(root / "usr/sbin/pgbouncer", root, root / "run" / "pgbouncer")


class PgBouncer:
    """
    A PgBouncer before `server`, from the beginning of a `with` block to its end; dies when we die.

    Args:
        version: "1.18" or "1.24".
        server: where it leads to.
        mode: "session" or "transaction".
        users: further users, with their passwords; the server's `postgres` is one, and may use the console.
        settings: lines of its section `[pgbouncer]`; they win over ours.
        databases: its section `[databases]`; by default every database of the server's.
    """

    def __init__(
        self,
        version: str,
        server: EmbeddedPostgres,
        *,
        mode: str = "transaction",
        users: Mapping[str, str] = {},
        settings: Mapping[str, object] = {},
        databases: Mapping[str, str] = {},
    ) -> None:
        self.version, self.server, self.mode, self.host, self.port = version, server, mode, "127.0.0.1", 0
        self._users = {"postgres": server._password, **users}
        self._settings, self._databases = settings, databases or {"*": ""}

    def url(self, driver: str = "postgresql+asyncpg", database: str = "postgres", user: str = "postgres") -> str:
        """Return the URL of a database, through it."""
        return f"{driver}://{user}:{self._users[user]}@{self.host}:{self.port}/{database}"

    def __enter__(self) -> Self:
        self._guardian = embedded._Guardian()
        try:
            self._start(program(self.version))
        except BaseException:
            self._guardian.finish()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._guardian.halt(signal.SIGINT if self.version == "1.18" else signal.SIGQUIT)  # both: at once
        self._guardian.finish()

    def _start(self, bouncer: Path) -> None:
        folder = self._guardian.root
        folder.chmod(0o755 if os.geteuid() == 0 else 0o700)
        users = folder / "users"
        users.write_text("".join(f'"{user}" "{password}"\n' for user, password in self._users.items()))
        prefix = _not_root()
        for self.port in random.sample(embedded._PORTS, 8):
            (folder / "ini").write_text(self._ini(users))
            process = self._guardian.launch(*prefix, bouncer, folder / "ini")
            deadline = time.monotonic() + READY_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                log = self._guardian.log()
                if "process up" in log and f"listening on {self.host}:{self.port}" in log:
                    return
                if "process up" in log:
                    break  # somebody else has the port
                time.sleep(0.01)
            said = self._guardian.log()
            self._guardian.halt(signal.SIGKILL)
            if "in use" not in said:
                break
        msg = f"PgBouncer {self.version} did not start: {said[-500:]}"
        raise RuntimeError(msg)

    def _ini(self, users: Path) -> str:
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": self.mode,
            "admin_users": "postgres",
            **self._settings,
        }
        databases = "".join(
            f"{name} = host={self.server.host} port={self.server.port} {more}\n" for name, more in self._databases.items()
        )
        return f"[databases]\n{databases}[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


@cache
def _not_root() -> tuple[str, ...]:
    """Give the beginning of a command that root runs as somebody else, as PgBouncer refuses root."""
    if os.geteuid() != 0:
        return ()
    renamed = subprocess.run([*embedded._RENAMED, "true"], capture_output=True, check=False).returncode == 0
    return embedded._RENAMED if renamed else embedded._DROPPED
