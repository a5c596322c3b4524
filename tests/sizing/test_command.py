"""`poolguard size` from outside: what it prints, its JSON, its exit status, and what it says of bad input."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sqla_poolguard._cli.command import poolguard

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
        "needed_late_share": [found["pool"]["late_share"]] * 2,
        "certain": True,
    }
    assert [(row["pool_size"], row["fits"]) for row in found["sensitivity"]] == [(56, False), (5, True), (102, False)]
    assert set(found) == {
        "schema", "verdict", "reason", "advice", "suggested", "load", "target", "server", "processes", "pool", "total", "shared",
        "shared_certain", "simulated", "played", "curve", "sensitivity", "formulas", "measured", "engine", "pgbouncer",
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
    [
        ("--hold", "1x"),
        ("--hold", "nan"),
        ("--hold", "inf"),
        ("--hold", "1e400"),
        ("--hold", "9" * 400),
        ("--hold-p50", "0.0000001ms"),
        ("--wait", "-1s"),
        ("--late", "0"),
        ("--late", "nan"),
        ("--late", "1e-400"),
        ("--late", "200%"),
        ("--rate", "nan"),
        ("--rate", "inf"),
        ("--rate", "1e400"),
        ("--rate", "-5"),
        ("--rate", "0"),
        ("--cores", "nan"),
        ("--cores", "1.5"),
        ("--cores", "9" * 5000),
        ("--max-connections", "300000"),
        ("--replicas", "0"),
        ("--role-limit", "-2"),
        ("--headroom", "-1"),
        ("--surge", "-1"),
        ("--surge", "9" * 400 + "%"),
        ("--pgbouncer", "new"),
        ("--pgbouncer", "1." + "9" * 5000),
        ("--window", "1y"),
    ],
    ids=lambda value: value[:12],
)
def test_values_that_are_none(size, option, value):
    """Exit status 2; the option and the value are named."""
    done = size.run(*SMALL, option, value)
    assert done.returncode == 2
    assert f"Invalid value for '{option}': '{value}'" in " ".join(done.stderr.split())
    assert "allowed: " in " ".join(done.stderr.split())
    told = size.run("--json", *SMALL, option, value)
    assert told.returncode == 2
    document = json.loads(told.stdout)
    assert document["schema"] == "poolguard.size/1"
    assert f"Invalid value for '{option}': '{value}'" in document["error"]
    assert "allowed: " in document["error"]


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("size", {"schema": "poolguard.size/1"}),
        ("doctor", {"schema": 1}),
        ("top", {}),
    ],
)
@pytest.mark.parametrize("wrong", [("--nonsense",), ("--json=3",), ("--dsn",) * 9])
def test_usage_errors_are_json_too(command, more, wrong):
    """Whatever click finds wrong is one document on standard output where JSON was asked for, beside the words on standard error."""
    done = CliRunner().invoke(poolguard, [command, "--json", *wrong], prog_name="poolguard")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document == more | {"error": document["error"]}
    assert document["error"] in " ".join(done.stderr.split())
    plain = CliRunner().invoke(poolguard, [command, *wrong], prog_name="poolguard")
    assert (plain.exit_code, plain.stdout) == (2, "")


@pytest.mark.parametrize("asked", [("--format", "json"), ("--format=json",), ("--json",)])
def test_usage_errors_of_the_doctor(asked):
    """In the ways in which it may be asked for JSON, and only in these."""
    done = CliRunner().invoke(poolguard, ["doctor", *asked], prog_name="poolguard")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"].startswith("name what to examine")
    assert CliRunner().invoke(poolguard, ["doctor", "--format", "junit"]).stdout == ""


def test_top_that_cannot_look_says_so_in_json():
    """As the other commands do."""
    done = CliRunner().invoke(poolguard, ["top", "--json", "--pid", "1", "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "--url and --pid name different things" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("arguments", "status"), [(("--help",), 0), (("size", "--help"), 0), (("--version",), 0), (("nothing",), 2)]
)
def test_what_click_does_by_itself(arguments, status):
    """Help, version and unknown commands end as they always do."""
    done = CliRunner().invoke(poolguard, arguments, prog_name="poolguard")
    assert done.exit_code == status
    assert (done.stdout == "") == (status == 2)
    assert CliRunner().invoke(poolguard, [], prog_name="poolguard").output.startswith("Usage: poolguard")


def test_json_has_no_number_that_is_none(size):
    """At the ends of what is allowed: neither NaN nor Infinity, which JSON does not know."""
    least = ("--rate", "0.001", "--hold", "1us", "--max-connections", 4, "--headroom", 1000000)
    most = ("--rate", 1000, "--hold", "100s", "--max-connections", 262143, "--replicas", 1000000, "--workers", 1000000)
    for arguments in (least, most, (*SMALL, "--surge", "1000%", "--engines", 1000000, "--late", "0.000001")):
        done = size.run("--json", *arguments)
        assert done.returncode in {0, 1}, done.stderr

        def refuse(name):
            raise AssertionError(name)

        json.loads(done.stdout, parse_constant=refuse)


def test_one_of_a_kind_is_no_plural(size):
    """1 replica, 1 process, 1 pool; also in the formulas."""
    shown = " ".join(
        size.run("--rate", 100, "--hold", "30ms", "--max-connections", 100, "--explain", COLUMNS="200").stdout.split()
    )
    assert "1 replica x 1 process = 1 at the peak" in shown
    assert "92 / 1 pool = 92 each" in shown
    assert not re.search(r"\b1 (replicas|processes|pools|workers|engines|connections)\b", shown)


def test_plot_marks_what_is_suggested(size):
    """The deadlock floor, where that is more than the load needs."""
    shown = size.run(*SMALL, "--nesting", 2, "--tasks", 20).stdout
    (marked,) = re.findall(r"^ +(\d+) .*← suggested$", shown, re.MULTILINE)
    (enough,) = re.findall(r"^ +(\d+) .*← enough for the load$", shown, re.MULTILINE)
    assert (marked, enough) == ("21", "5")
    assert "\n    …\n" in shown


def test_what_is_not_certain_is_said(size):
    """In the table and in the JSON; the safe side is suggested."""
    near = ("--rate", 100, "--hold-p50", "20ms", "--hold-p99", "400ms", "--max-connections", 100)
    found = size.answer(*near)
    assert found["suggested"]["pool_size"] == 9
    assert (found["simulated"], found["pool"]["certain"]) == (True, False)
    low, high = found["pool"]["needed_late_share"]
    assert low < found["pool"]["late_share"] < high <= 0.01
    shown = " ".join(size.run(*near, COLUMNS="120").stdout.split())
    assert "the safe side: with 8 it is 0." in shown
    assert f"as far as {found['played']:,} checkouts tell" in shown
    plain = size.answer(*SMALL)
    assert (plain["simulated"], plain["pool"]["certain"], plain["played"]) == (False, True, 0)
    wild = size.run("--rate", 20, "--hold-p50", "1ms", "--hold-p99", "1s", "--max-connections", 100, COLUMNS="120").stdout
    assert "not certain: with so long a tail of the holds" in " ".join(wild.split())


@pytest.mark.parametrize(("option", "statement"), [("--role-limit", "ALTER ROLE"), ("--database-limit", "ALTER DATABASE")])
def test_limit_that_binds_is_named(size, option, statement):
    """First, and no larger server; and a limit of none is taken by nobody."""
    load = ("--rate", 400, "--hold", "30ms", "--max-connections", 100)
    answer = size.answer(*load, option, 10)
    name = statement.split()[1].lower()
    assert f"and 10 are usable by the limit of the {name}" in answer["reason"]
    assert (
        answer["advice"][0]
        == f"raise the limit of the {name} by {answer['suggested']['pool_size'] - 10}: {statement} … CONNECTION LIMIT"
    )
    assert not any("a server with room" in sentence for sentence in answer["advice"])
    both = size.answer("--rate", 4000, *load[2:], option, 10)
    assert both["advice"][0] == f"raise the limit of the {name}: {statement} … CONNECTION LIMIT; without it 92 would be usable"
    assert any("a server with room" in sentence for sentence in both["advice"])
    none = size.answer(*load, option, 0)
    assert none["reason"].endswith(f"and none is usable: the limit of the {name} is 0")


def test_nothing_is_usable(size):
    """That is no matter of holds: nothing of the kind is advised."""
    done = size.run(*SMALL, "--others", 92)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "No room: 4 pools of 5 need 20 connections, and none is usable: others, and what is kept free, take all" in said
    assert "hold for" not in said


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
