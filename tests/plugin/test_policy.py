"""What is demanded of a test: options, the marker, modes; what is wrong with them is said."""

from __future__ import annotations

import pytest
from doubles.suites import BACKGROUND, KEEPS, a_test

pytestmark = pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")


@pytest.mark.parametrize("body", [KEEPS, BACKGROUND])
def test_a_hold_may_be_allowed(suite, body):
    """The marker allows a test to hold to its end."""
    run = suite(a_test(body, "@pytest.mark.poolguard(allow_hold='a leader')"), poolguard_quiesce="0.05")
    assert run.blamed == {}, run.text
    assert set(run.results.values()) == {"passed"}


def test_an_allowed_hold_may_not_be_lost(suite):
    """To hold is allowed, to lose is not."""
    run = suite(a_test("await engine.connect()", "@pytest.mark.poolguard(allow_hold='a leader')"))
    assert set(run.blamed) == {"test_it"}, run.text


@pytest.mark.parametrize("body", [KEEPS, BACKGROUND, "await engine.connect()"])
def test_a_leak_may_be_expected(suite, body):
    """A test of a leak says so, and passes."""
    run = suite(a_test(body, "@pytest.mark.poolguard(expect_leak=True)"), poolguard_quiesce="0.05")
    assert set(run.results.values()) == {"passed"}, run.text


def test_a_leak_that_is_expected_and_does_not_come(suite):
    """Once it is mended, the marker has to go."""
    run = suite(a_test("pass", "@pytest.mark.poolguard(expect_leak=True)"))
    assert run.results == {"test_it": "error", "test_after": "passed"}
    assert "expect_leak=True, but every connection came back; remove it from the marker" in run.text


def test_markers_are_merged(suite):
    """Of each argument the nearest marker holds: the function's, the class's, the module's."""
    run = suite(
        """
    pytestmark = pytest.mark.poolguard(allow_hold="the module says so", max_await=0.01)

    @pytest.mark.poolguard(expect_leak=True)
    class TestClass:
        @pytest.mark.poolguard(max_await=5)
        async def test_allowed(self, engine):
            await slowly(engine, 0.1)
            await engine.connect()

        @pytest.mark.poolguard(expect_leak=False)
        async def test_lost(self, engine):
            await engine.connect()

        @pytest.mark.poolguard(max_await=5)
        def test_policy(self, request):
            proctor = request.config.pluginmanager.get_plugin("poolguard-proctor")
            assert (proctor.policy.max_foreign_await, proctor.policy.expect_leak) == (5, True)
            assert proctor.policy.allow_hold == "the module says so"
            asyncio.run(new_engine().connect().__aenter__())

    @pytest.mark.poolguard(max_wait=1)
    def test_wrong():
        pass

    async def test_module(engine):
        KEPT.append(await engine.connect())
    """
    )
    assert {name: result for name, result in run.results.items() if result != "passed"} == dict.fromkeys(
        ("test_lost", "test_wrong"), "error"
    ), run.text
    assert set(run.blamed) == {"test_lost"}
    assert "pytest.mark.poolguard(max_wait=…) is unknown; allowed: allow_hold, " in run.told["test_wrong"]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("allow_hold=''", "pytest.mark.poolguard(allow_hold=…): '' is not allowed; allowed: a non-empty text"),
        ("allow_hold=True", "pytest.mark.poolguard(allow_hold=…): True is not allowed; allowed: a non-empty text"),
        ("expect_leak=1", "pytest.mark.poolguard(expect_leak=…): 1 is not allowed; allowed: True or False"),
        ("hold=1", "pytest.mark.poolguard(hold=…) is unknown; allowed: allow_hold, "),
        ("'why'", "pytest.mark.poolguard takes no positional argument, got 'why'; allowed: allow_hold, "),
        ("", "pytest.mark.poolguard says nothing; allowed: allow_hold, "),
    ],
)
def test_a_wrong_marker_is_an_error(suite, mark, message):
    """It names the argument, the value and what is allowed; the next test is not concerned."""
    run = suite(a_test("pass", f"@pytest.mark.poolguard({mark})"))
    assert run.results == {"test_it": "error", "test_after": "passed"}
    assert message in run.text


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("poolguard", "loud", "strict, warn or off"),
        ("poolguard_quiesce", "soon", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_hold", "-1", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_hold", "nan", "none, or a number of seconds, 0 or more"),
        ("poolguard_max_nesting", "0", "none, or a whole number, 1 or more"),
        ("poolguard_max_nesting", "1.5", "none, or a whole number, 1 or more"),
        ("poolguard_forbidden_calls", "httpx", "usual, or module:name, such as app.llm:Client.complete"),
        ("poolguard_forbidden_calls", ":", "usual, or module:name, such as app.llm:Client.complete"),
    ],
)
@pytest.mark.parametrize("where", ["ini", "command line"])
def test_a_wrong_option_is_an_error(pytester, option, value, allowed, where):
    """It names the option where it was given, the value and what is allowed."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makeini(f"[pytest]\n{option if where == 'ini' else 'xfail_strict'} = {value if where == 'ini' else 'true'}\n")
    flag = f"--{option.replace('_', '-')}"
    done = pytester.runpytest_inprocess(*([] if where == "ini" else [f"{flag}={value}"]))
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    named = option if where == "ini" else flag
    done.stderr.fnmatch_lines([f"ERROR: {named}: '{value}' is not allowed; allowed: {allowed}"])


NATIVE = """
[tool.pytest]
asyncio_default_fixture_loop_scope = "function"
poolguard = "warn"
poolguard_forbidden_calls = ["usual"]
poolguard_max_foreign_await = "none"
poolguard_max_hold = 0.5
poolguard_max_nesting = 2
poolguard_quiesce = 0
"""


def test_native_table(pytester):
    """From pytest 9.2 on a number may be one in `[tool.pytest]`; those before want quotes, and 8 does not read it."""
    pytester.makepyprojecttoml(NATIVE)
    pytester.makepyfile(
        """
        import pytest

        def test_it(pytestconfig):
            from sqla_poolguard import pytest_plugin
            policy = pytestconfig.stash[pytest_plugin._DESK].policy
            told = policy.mode, policy.forbidden_calls, policy.max_foreign_await, policy.max_hold, policy.max_nesting, policy.quiesce
            is_read = pytest.version_tuple >= (9, 2)
            assert told == (("warn", ("usual",), None, 0.5, 2, 0) if is_read else ("strict", (), None, None, None, 1))
        """
    )
    done = pytester.runpytest_inprocess("-o", "asyncio_default_fixture_loop_scope=function")
    if (9, 0) <= pytest.version_tuple < (9, 2):
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        done.stderr.fnmatch_lines(["ERROR: *'poolguard_* expects a string, got *; with this pytest, write it in quotes there"])
    else:
        assert done.ret == 0


@pytest.mark.parametrize("value", ["true", "-1", "1.5", "[2]", "'many'"])
def test_a_wrong_native_value(pytester, value):
    """It is an error before any test, which names the option and the value."""
    pytester.makepyprojecttoml(f"[tool.pytest]\npoolguard_max_nesting = {value}\n")
    pytester.makepyfile("def test_it(): pass")
    done = pytester.runpytest_inprocess("-o", "asyncio_default_fixture_loop_scope=function")
    if pytest.version_tuple < (9, 0):
        assert done.ret == 0
        return
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "poolguard_max_nesting" in done.stderr.str()
    assert value.strip("[]'").capitalize() in done.stderr.str() or value.strip("[]'") in done.stderr.str()


@pytest.mark.parametrize("switch", ["--poolguard-all", "--poolguard-ledger"])
@pytest.mark.parametrize("where", ["ini", "command line"])
def test_off_and_a_switch(pytester, switch, where):
    """With `off` a switch would silently do nothing: it is an error that names both."""
    pytester.makepyfile("def test_it(): pass")
    if where == "ini":
        pytester.makeini("[pytest]\npoolguard = off\n")
    done = pytester.runpytest_inprocess(switch, *(["--poolguard=off"] if where == "command line" else []))
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    off = "poolguard = off" if where == "ini" else "--poolguard=off"
    done.stderr.fnmatch_lines(
        [f"ERROR: {switch} is not allowed together with {off}, with which nobody looks: leave one of them out"]
    )


def test_warn_lets_it_pass(suite):
    """A warning says what would have failed, of the test that it is about."""
    run = suite(a_test(KEEPS), poolguard="warn")
    assert set(run.results.values()) == {"passed"}
    assert [(name, text.partition(":")[0]) for name, text in run.warnings] == [("test_it", "connection orphaned")]


def test_off_is_off(suite):
    """Nobody looks."""
    run = suite(a_test(KEEPS), poolguard="off")
    assert (set(run.results.values()), run.warnings, run.blamed) == ({"passed"}, [], {})


def test_a_hold_may_be_declared_for_a_connection(suite):
    """An execution option, or the block in which it was checked out, excuses a connection that outlives the task that opened it."""
    run = suite(
        """
    async def test_it(engine):
        connection = await engine.connect()
        KEPT.append(await connection.execution_options(poolguard_hold="a leader"))

    async def test_block(engine):
        with allow_hold("a leader"):
            KEPT.append(await engine.connect())

    async def test_session(engine):
        session = AsyncSession(engine)
        await session.connection(execution_options={"poolguard_hold": "a leader"})
        KEPT.append(session)
    """
    )
    assert run.blamed == {}, run.text


def test_options_of_the_ini_file(suite):
    """`addopts` is a command line."""
    run = suite(a_test(KEEPS), addopts="--poolguard=off", poolguard="strict")
    assert set(run.results.values()) == {"passed"}


def test_held_too_long(suite):
    """`poolguard_max_hold` bounds what a test checks out; a fixture's session may be out for longer."""
    run = suite(
        """
    @pytest.fixture
    async def connection(engine):
        async with engine.connect() as connection:
            yield connection

    async def test_long(engine):
        await slowly(engine, 0.1)

    async def test_short(engine, connection):
        await slowly(engine, 0)
        await asyncio.sleep(0.1)

    @pytest.mark.poolguard(allow_hold="a cursor")
    async def test_allowed(engine):
        await slowly(engine, 0.1)
    """,
        poolguard_max_hold="0.05",
    )
    assert set(run.blamed) == {"test_long"}, run.text
    assert "poolguard_max_hold is 0.05 s" in run.blamed["test_long"]


def test_nested(suite):
    """`poolguard_max_nesting` bounds what one task has out of one pool; sessions side by side in tasks are not nested."""
    run = suite(
        """
    async def test_nested(engine):
        async with engine.connect():
            await slowly(engine, 0)

    async def test_side_by_side(engine):
        await asyncio.gather(slowly(engine, 0.01), slowly(engine, 0.01))

    async def test_two_pools(engine):
        async with engine.connect():
            await slowly(new_engine(), 0)
    """,
        poolguard_max_nesting="1",
    )
    assert set(run.blamed) == {"test_nested"}, run.text
    assert "it had 1 already" in run.blamed["test_nested"]
