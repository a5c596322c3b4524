"""`poolguard top` and the sockets of `Guard(inspect=True)`, with real processes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner
from top.conftest import until

from sqla_poolguard._cli.command import poolguard

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets here")


def test_it_shows_who_holds_and_who_waits(application, top):
    """A look at a busy process: its pools, waits and holders by line; the status tells that something is wrong."""
    application("busy")
    done = until(lambda: (found := top("--once")).returncode == 1 and found)
    assert "2/2" in done.stdout
    assert "3 x" in done.stdout
    assert "app/orders.py:15 in hold" in done.stdout
    assert done.stderr == ""
    told = json.loads(top("--once", "--json").stdout)
    (pool,) = told["processes"][0]["pools"]
    assert pool["monitor"] is None
    assert (told["wrong"], pool["pool"], pool["used"], len(pool["waiters"])) == (True, "orders", 2, 3)


def test_a_monitor_of_the_process_is_seen(application, top):
    """What it knows comes through the socket, here that it knows nothing: there is no server behind this driver."""
    application("monitored")
    done = until(lambda: (found := top("--once")) and "orders: the server cannot be asked" in found.stdout and found)
    assert "1/2" in done.stdout
    (pool,) = json.loads(top("--once", "--json").stdout)["processes"][0]["pools"]
    assert [row["holder"]["pool"] for row in pool["monitor"]["rows"]] == ["orders"]


def test_nothing_wrong_is_0(application, top):
    """A quiet process is well."""
    application("quiet")
    done = top("--once")
    assert done.returncode == 0
    assert "Nobody holds a connection." in done.stdout


def test_nobody_to_look_at_is_2(top, folder):
    """The message says what a process needs to be seen."""
    done = top("--once")
    assert done.returncode == 2
    assert f"no process to look at: none has a socket in {folder}. Give its engine Guard(inspect=True)" in done.stderr


@pytest.mark.parametrize("value", ["nan", "0", "-1", "inf", "soon", "3601"])
def test_an_interval_that_makes_no_sense_is_2(value):
    """The message names the option, the value and what is allowed."""
    done = CliRunner().invoke(poolguard, ["top", "--interval", value])
    assert done.exit_code == 2
    assert f"'--interval': {value} is not allowed; allowed: seconds from 0.1 to 3600" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pid", "1"], "no process 1 has a socket in"),
        (["--url", "ftp://x"], "--url 'ftp://x' is not allowed; allowed: an address that begins with http:// or https://"),
        (["--url", "http://localhost:1/"], "localhost:1/ cannot be reached: "),
        (["--url", "http://localhost:1/", "--pid", "5"], "--url and --pid name different things"),
        (["--url", "http://localhost:1/", "--header", "secret-token"], "a --header is not allowed; allowed: a name, a colon"),
    ],
)
def test_what_cannot_be_is_2(top, arguments, message):
    """Each says why, in a line, and shows no secret."""
    done = top("--once", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_the_socket_is_its_user_s_alone_and_goes_with_the_process(application, folder):
    """The folder has mode 0700, the socket 0600; when the process ends by itself, it is gone."""
    process = application("quiet")
    (path,) = folder.iterdir()
    assert path.name == f"{process.pid}.sock"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    application("end").wait()
    until(lambda: list(folder.iterdir()) == [path])
    process.send_signal(signal.SIGINT)
    process.wait()
    assert list(folder.iterdir()) == []


def test_what_a_crash_leaves_behind_is_removed(application, top, folder):
    """A socket without a process is removed by whoever looks."""
    process = application("quiet")
    process.kill()
    process.wait()
    assert len(list(folder.iterdir())) == 1
    assert top("--once").returncode == 2
    assert list(folder.iterdir()) == []


def test_a_process_that_is_about_to_listen_keeps_its_socket(top, folder):
    """It refuses, as one that has gone does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        path = folder / f"{os.getpid()}.sock"
        bound.bind(str(path))
        assert top("--once").returncode == 2
        assert path.exists()


def test_a_socket_that_somebody_cleans_away_comes_back(application, top, folder):
    """The file alone, or with its folder: it is opened anew, as safe as before; what somebody else puts there stays."""
    path = folder / f"{application('cleaned').pid}.sock"
    path.unlink()
    until(path.exists)
    shutil.rmtree(folder)
    until(path.exists)
    assert top("--once").returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.write_text("of somebody else")
    time.sleep(0.5)
    assert path.read_text() == "of somebody else"
    path.unlink()
    until(path.exists)


def test_a_process_without_a_file_left_answers_later(application, top, folder):
    """Whoever opens too many connections is looked at when it has room again."""
    path = folder / f"{application('full').pid}.sock"
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(path))  # for which it has no file
        time.sleep(0.3)
    until(lambda: top("--once").returncode == 0)


def test_a_forked_child_has_its_own(application, top, folder):
    """Parent and child answer each for itself."""
    process = application("fork")
    until(lambda: {path.name for path in folder.iterdir()} == {f"{process.pid}.sock", f"{process.child}.sock"})
    told = json.loads(top("--once", "--json").stdout)
    assert {each["process"] for each in told["processes"]} == {f"{process.pid} orders.py", f"{process.child} orders.py"}
    assert json.loads(top("--once", "--json", "--pid", str(process.pid)).stdout)["processes"][0]["process"].startswith(
        f"{process.pid}"
    )


def test_a_loop_that_stands_still_is_seen(application, top):
    """The process answers although its event loop does not, and says so."""
    application("stuck")
    done = until(lambda: (found := top("--once")).returncode == 1 and "stands still" in found.stdout and found)
    assert "2/2" in done.stdout


@pytest.mark.parametrize("harm", ["open", "file"])
def test_a_folder_that_is_not_ours_alone_is_not_used(application, top, folder, harm):
    """Others could put a socket of theirs there; the application says so and runs on."""
    if harm == "open":
        folder.mkdir()
        folder.chmod(0o755)
    else:
        folder.write_text("")
    application("quiet")
    done = top("--once")
    assert done.returncode == 2
    assert "mode 0700" in done.stderr if harm == "open" else "is not a folder" in done.stderr
    assert harm == "file" or list(folder.iterdir()) == []


def test_who_does_not_read_keeps_nobody_waiting_for_long(application, top, folder):
    """Somebody who opens the socket and reads nothing is left after a second."""
    process = application("busy")
    idle = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for each in idle:
        each.connect(str(folder / f"{process.pid}.sock"))
    assert top("--once").returncode in {0, 1}
    for each in idle:
        each.close()


class Page(BaseHTTPRequestHandler):
    """A debug page behind a token, and a page that leads elsewhere."""

    def do_GET(self):
        """Answer."""
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "http://localhost:1/steal")
            self.end_headers()
            return
        allowed = self.headers.get("Authorization") == "Bearer good" and self.path == "/debug/pools?format=json"
        body = {"at": "now", "pools": [POOL]} if allowed else None
        self.send_response(200 if allowed or self.path.startswith("/other") else 404)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        """Say nothing."""


POOL = {
    "pool": "orders",
    "pool_size": 5,
    "max_overflow": 5,
    "idle": 1,
    "used": 0,
    "connecting": 0,
    "waiting": 0,
    "holders": [],
    "waiters": [],
}


@pytest.fixture
def page():
    """Serve the pages; give their address."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_debug_page_with_a_header(page, top):
    """The header opens the page; it may come from the environment, where nobody else sees it."""
    url = f"{page}/debug/pools?refresh=2"
    assert top("--once", "--url", url, "--header", "Authorization: Bearer good").returncode == 0
    assert "0/10" in top("--once", "--url", url, POOLGUARD_HEADER="Authorization: Bearer good").stdout
    refused = top("--once", "--url", url, "--header", "Authorization: Bearer bad")
    assert refused.returncode == 2
    assert "answered 404: the page is not there, or not for you" in refused.stderr


def test_a_page_that_leads_elsewhere_or_is_another(page, top):
    """No token is sent to another address, and what is no debug page is called so."""
    moved = top("--once", "--url", f"{page}/moved", "--header", "Authorization: Bearer good")
    assert (moved.returncode, "answered 302" in moved.stderr) == (2, True)
    other = top("--once", "--url", f"{page}/other")
    assert (other.returncode, "not with the JSON of a debug page" in other.stderr) == (2, True)


def test_without_a_terminal_it_says_what_to_do(application, top):
    """A script that forgot `--once` is told."""
    application("quiet")
    done = top()
    assert (done.returncode, "use --once, or --json" in done.stderr) == (2, True)


@pytest.mark.parametrize("ending", ["q", "ctrl-C", "SIGTERM"])
def test_on_a_terminal(application, environment, ending):
    """It draws on a screen of its own, and gives the terminal back as it was, however it ends."""
    application("busy")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "sqla_poolguard", "top", "--interval", "0.2"]
    settings = {**environment, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=settings, start_new_session=True)
    os.close(theirs)
    shown = b""

    def read():
        nonlocal shown
        try:
            while part := os.read(ours, 65_536):
                shown += part
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: b"q quits" in shown and b"Holding" in shown)
    if ending == "q":
        os.write(ours, b"xq")  # another key does nothing
    else:
        process.send_signal(signal.SIGTERM if ending == "SIGTERM" else signal.SIGINT)
    assert process.wait(timeout=20) == 0
    os.close(ours) if not reader.is_alive() else reader.join(timeout=20)
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    assert b"Traceback" not in shown
