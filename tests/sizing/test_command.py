"""`poolguard size` from outside: what it prints, its JSON, its exit status, and what it says of bad input."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SMALL = ("--rate", 400, "--hold", "30ms", "--max-connections", 100, "--workers", 4)
OUTSIDE = ("--rate", 400, "--hold", "430ms", "--outside", "400ms", "--max-connections", 100, "--workers", 4)
CROWD = ("--rate", 400, "--hold", "30ms", "--max-connections", 100, "--replicas", 50, "--workers", 4)


def test_service_that_fits(size):
    """Exit status 0, the size, and an engine to paste."""
    done = size.start(*SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Fits: 4 pools of 5 take 20 of 92 usable connections." in done.stdout
    assert "    pool_size=5,\n    max_overflow=0,\n    pool_timeout=1.0,\n" in done.stdout
    assert "pgbouncer" not in done.stdout
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_service_that_does_not_fit(size):
    """Exit status 1, and what to do in place of an engine to paste."""
    done = size.run(*OUTSIDE, "--cores", 8)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "Hold time too long: 4 pools of 56 need 224 connections, and 92 are usable" in said
    assert "1. give the connection back before the outside call, as with release(session): 5 for each pool" in said
    assert "working at a time 12 of 16 to 32" in said
    assert "create_async_engine" not in said


def test_json_is_the_documented_document(size):
    """One document and nothing else, with the names that are promised."""
    found = size.answer(*OUTSIDE)
    assert found["schema"] == "poolguard.size/1"
    assert found["verdict"] == "hold time too long"
    assert found["suggested"] == {"pool_size": 56, "max_overflow": 0, "pool_timeout": 1.0}
    assert found["server"]["usable"] == 92
    assert found["pool"] | {"busy": 43.0} == {
        "checkouts_per_second": 100.0,
        "busy": 43.0,
        "needed": 56,
        "deadlock_floor": 1,
        "ceiling": 23,
        "late_share": pytest.approx(0.00837, abs=1e-5),
    }
    assert [(row["pool_size"], row["fits"]) for row in found["sensitivity"]] == [(56, False), (5, True), (102, False)]
    assert set(found) == {
        "schema", "verdict", "reason", "advice", "suggested", "load", "target", "server", "processes", "pool", "total", "shared",
        "simulated", "curve", "sensitivity", "formulas", "measured", "engine", "pgbouncer",
    }  # fmt: skip


def test_every_formula_names_its_source(size):
    """`--explain` shows each with the figures of this load."""
    found = size.answer(*SMALL, "--cores", 4, "--nesting", 2, "--tasks", 3)
    assert all(formula["source"] and formula["computed"] for formula in found["formulas"])
    shown = " ".join(size.run(*SMALL, "--explain", COLUMNS="200").stdout.split())
    for words in ("L = lambda W = 100/s x 30 ms = 3", "Little", "Kleinrock", "20.3.1", "HikariCP", "maxSurge"):
        assert words in shown, words


def test_crowd_is_given_a_pooler(size):
    """A PgBouncer and the engine that goes with it; the old kind without prepared statements."""
    new, old = size.run(*CROWD), size.run(*CROWD, "--pgbouncer", "1.18")
    assert new.returncode == old.returncode == 1
    assert "\ndefault_pool_size = 15\n" in new.stdout
    assert "\nmax_prepared_statements = 200\n" in new.stdout
    assert "statement_cache_size" not in new.stdout
    assert "max_prepared_statements" not in old.stdout
    assert "prepared_statement_cache_size=0" in old.stdout
    assert '"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""' in old.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_prose_fits_the_screen(size, columns):
    """Nothing but what is to be copied is wider than the screen."""
    for arguments in (SMALL, OUTSIDE, (*CROWD, "--explain")):
        shown = size.run(*arguments, COLUMNS=str(columns)).stdout
        prose = shown.split("\npgbouncer.ini")[0].split("\nTo paste")[0]
        assert max(map(len, prose.splitlines())) <= columns


def test_ascii_terminal_gets_ascii(size):
    """Where the encoding has no bars and arrows, there are none."""
    done = size.start(*SMALL, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "##" in done.stdout


def test_processes_are_taken_from_the_environment(size):
    """`WEB_CONCURRENCY` is what servers of ASGI read, too."""
    shown = size.run("--rate", 100, "--hold", "30ms", "--max-connections", 100, WEB_CONCURRENCY="4").stdout
    assert "1 replica x 4 processes = 4 at the peak" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--max-connections is missing; give it, or --from postgresql://"),
        (("--max-connections", 100), "--rate is missing"),
        (("--max-connections", 100, "--rate", 5), "--hold is missing"),
        ((*SMALL, "--outside", "30ms"), "outside=0.03 is not allowed; allowed: from 0 to less than the mean hold (0.03 s)"),
        ((*SMALL, "--hold-p50", "5ms"), "--hold-p50 and --hold-p99 go together"),
        ((*SMALL, "--hold-p50", "5ms", "--hold-p99", "9ms"), "--hold is the mean; give either that, or"),
        ((*SMALL, "--nesting", 2), "--nesting needs --tasks"),
        ((*SMALL, "--wait", "5s"), "wait=5 is not allowed; allowed: from 0 to less than the deadline (4 s)"),
        ((*SMALL, "--hold", "0s"), "hold=0 is not allowed; allowed: above 0"),
        ((*SMALL, "--max-connections", 3), "leave nothing of max_connections=3"),
        ((*SMALL, "--from", "mysql://localhost"), "--from mysql://… is not allowed; allowed: postgresql://, http://, https://, or files"),
        ((*SMALL, "--from", "/nowhere.json"), "--from /nowhere.json: No such file or directory"),
        ((*SMALL, "--from", "http://u:secret@localhost:1/debug?token=secret"), "http://localhost:1/debug cannot be read"),
    ],
)  # fmt: skip
def test_bad_input(size, arguments, words):
    """Exit status 2 and one sentence that names the option, the value and what is allowed; with `--json` in JSON too."""
    done = size.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "secret" not in done.stderr
    told = size.run("--json", *arguments)
    assert told.returncode == 2
    assert words in json.loads(told.stdout)["error"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--hold", "1x"), ("--late", "0"), ("--late", "200%"), ("--surge", "-1"), ("--pgbouncer", "new"), ("--window", "1y")],
)
def test_values_that_are_none(size, option, value):
    """Exit status 2; the option and the value are named."""
    done = size.run(*SMALL, option, value)
    assert done.returncode == 2
    assert f"Invalid value for '{option}': '{value}'" in " ".join(done.stderr.split())
    assert "allowed: " in " ".join(done.stderr.split())


def test_surge_may_be_a_percentage(size):
    """Rounded up, as Kubernetes does."""
    assert size.answer(*SMALL, "--replicas", 5, "--surge", "25%")["processes"]["peak"] == (5 + 2) * 4
    assert size.answer(*SMALL, "--replicas", 4, "--surge", "25%")["processes"]["peak"] == (4 + 1) * 4


def test_without_options_it_asks(size):
    """In a terminal; return takes what is usual."""
    parent, child = pty.openpty()
    command = [sys.executable, "-P", "-m", "sqla_poolguard", "size", "--deadline", "2s"]
    with subprocess.Popen(
        command, stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=size.environment, text=True
    ) as process:
        os.close(child)
        os.write(parent, b"200\n\n2\n4\n25%\n300\n1x\n20ms\n\n")
        out, err = process.communicate(timeout=60)
        os.close(parent)
    assert process.returncode == 0, err
    assert "Eight questions" in err
    assert "'1x' is no time; allowed:" in err
    assert "(2 replicas + 1 surge) x 4 processes = 12 at the peak" in " ".join(out.split())
    assert "300 checkouts/s, held for 20 ms" in out
    assert "pool_timeout=0.5," in out


def test_interrupted_it_is_neither_fit_nor_unfit(size, monkeypatch):
    """The exit status of a program that was interrupted."""

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sqla_poolguard._plan.make_plan", interrupt)
    assert size.run(*SMALL).returncode == 130
