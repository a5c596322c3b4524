"""Where forbidden calls are written down, and in which modules, libraries and threads they are seen."""

from __future__ import annotations

import sys
import threading
import types

import httpx  # noqa: F401 - so that no run inside imports it anew
import pytest

from sqla_poolguard._testing.forbidding import ForbiddenCalls


@pytest.mark.parametrize("where", ["pyproject", "command line"])
def test_where_calls_stand(pytester, where):
    """They are a list in pyproject.toml, and have commas on the command line."""
    pytester.makepyfile(
        """
        def test_it(pytestconfig):
            from sqla_poolguard import pytest_plugin
            policy = pytestconfig.stash[pytest_plugin._DESK].policy
            assert policy.forbidden_calls == ("usual", "httpx:get")
            assert policy.max_hold == 0.5
        """
    )
    options = ["--poolguard-forbidden-calls=usual,httpx:get", "--poolguard-max-hold=0.5"]
    if where == "pyproject":
        options = []
        pytester.makepyprojecttoml(
            """
            [tool.pytest.ini_options]
            poolguard_forbidden_calls = ["usual", "httpx:get"]
            poolguard_max_hold = 0.5
            """
        )
    assert pytester.runpytest_inprocess("-o", "asyncio_default_fixture_loop_scope=function", *options).ret == 0


def test_a_call_that_is_none(pytester):
    """It is an error before any test, which names the option and the value."""
    pytester.makepyfile("def test_it(): pass")
    pytester.makeini("[pytest]\npoolguard_forbidden_calls =\n    usual\n    httpx.get\n")
    done = pytester.runpytest_inprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        [
            "ERROR: poolguard_forbidden_calls: 'httpx.get' is not allowed; allowed: usual, or module:name, such as app.llm:Client.complete"
        ]
    )


def test_commas_that_part_nothing(pytester):
    """An option that names no call is a mistake; one that is empty is not given."""
    pytester.makepyfile("def test_it(): pass")
    assert (
        pytester.runpytest_inprocess("-o", "asyncio_default_fixture_loop_scope=function", "--poolguard-forbidden-calls=").ret == 0
    )
    done = pytester.runpytest_inprocess("--poolguard-forbidden-calls=,")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        ["ERROR: --poolguard-forbidden-calls: ',' is not allowed; allowed: usual, or module:name, such as *"]
    )


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("httpx:AsyncClient.fetch", "module 'httpx' has no 'AsyncClient.fetch'"),
        ("httpx:AsyncClient", "it is a class: name its method; allowed: functions and methods"),
        ("httpx:__version__", "it is no function, but a str; allowed: functions and methods"),
        ("doubles.kept:SLOTTED.ask", "Slotted has __slots__; allowed: the class's method"),
        ("no_such_module:get", "there is no module 'no_such_module'; allowed: usual, or module:name"),
    ],
)
def test_a_call_that_is_nowhere(suite, call, why):
    """It is told once, and ends the run: at a test, since the module may be imported, and the path be set, only then."""
    run = suite("async def test_it(engine): pass\nasync def test_next(engine): pass\n", poolguard_forbidden_calls=call)
    assert run.results == {"test_it": "error"}
    assert run.text.count(call) == 1
    assert run.ret == 1
    assert f"poolguard_forbidden_calls: {call!r} is not allowed: {why}" in run.text


def test_application_calls_itself(suite, pytester):
    """A call is seen that one module of an application makes to another, also where only pytest's `pythonpath` leads to them."""
    shop = pytester.path / "src" / "shop"
    shop.mkdir(parents=True)
    (shop / "llm.py").write_text("async def complete(prompt):\n    return prompt\n")
    (shop / "orders.py").write_text("from shop import llm\n\nasync def summary():\n    return await llm.complete('x')\n")
    source = """
    from shop.orders import summary

    async def test_guilty(engine):
        async with engine.connect():
            await summary()

    async def test_innocent(engine):
        await summary()
    """
    run = suite(source, poolguard_forbidden_calls="shop.llm:complete", pythonpath="src")
    assert run.results == {"test_guilty": "failed", "test_innocent": "passed"}, run.text
    assert "shop.llm:complete called at shop/orders.py:4 while a connection is held" in run.text


def test_module_that_is_imported_late(suite, pytester):
    """Its functions are watched from the next checkout on."""
    (pytester.path / "late.py").write_text("def ask():\n    pass\n")
    source = """
    async def test_late(engine):
        import late
        async with engine.connect():
            late.ask()
    """
    run = suite(source, poolguard_forbidden_calls="late:ask", pythonpath=".")
    assert run.results == {"test_late": "failed"}, run.text


def test_module_that_is_imported_while_a_connection_is_held(suite, pytester):
    """Its functions are watched from then on, be it imported by name, by a library or by `patch`; it sees nobody but its own loader."""
    folder = pytester.path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "llm.py").write_text(
        "LOADER = type(__loader__).__name__, type(__spec__.loader).__name__\n\ndef ask():\n    return LOADER\n"
    )
    (pytester.path / "prices.py").write_text("async def ask():\n    return 1\n")
    (pytester.path / "wrong.py").write_text("raise ZeroDivisionError\n")
    source = """
    import unittest.mock

    async def test_late(engine):
        async with engine.connect():
            from shop import llm
            llm.ask()  # HERE

    async def test_loader(engine):
        del sys.modules["shop.llm"]
        from importlib import util
        assert util.find_spec("shop.llm").loader.get_filename().endswith("llm.py")
        from shop import llm
        assert llm.ask() == ("SourceFileLoader", "SourceFileLoader")

    async def test_patched(engine):
        async with engine.connect():
            with unittest.mock.patch("prices.ask"):
                pass
            import prices
            await prices.ask()  # HERE

    @pytest.fixture
    def over():
        import prices
        assert prices.ask.__code__.co_filename == prices.__file__
        assert "sqla_poolguard" not in str(sys.meta_path)

    def test_after(over):
        pass

    async def test_wrong(engine):
        with pytest.raises(ZeroDivisionError):
            import wrong
        with pytest.raises(ModuleNotFoundError):
            import shop.nothing
    """
    calls = "\n    shop.llm:ask\n    prices:ask\n    wrong:ask\n    shop.nothing:ask"
    before = sys.meta_path.copy()
    run = suite(source, poolguard_forbidden_calls=calls, pythonpath=".")
    assert sys.meta_path == before
    results = dict.fromkeys(("test_late", "test_patched"), "failed") | dict.fromkeys(
        ("test_loader", "test_after", "test_wrong"), "passed"
    )
    assert run.results == results, run.text
    for name in ("test_late", "test_patched"):
        assert "while a connection is held" in run.told[name]
        assert "# HERE" in run.told[name]


def test_library_that_calls(suite, pytester):
    """A call that a library makes for the application is told of the application's line; one that it makes in a task of its own, of its own."""
    site = pytester.path / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "vendor.py").write_text(
        "import asyncio, time\n\n\nasync def ask():\n    time.sleep(0.001)\n\n\nasync def ask_beside():\n    await asyncio.create_task(ask())\n"
    )
    source = """
    import vendor

    async def test_for_the_application(engine):
        async with engine.connect():
            await vendor.ask()  # HERE

    async def test_beside(engine):
        async with engine.connect():
            await vendor.ask_beside()
    """
    run = suite(source, poolguard_forbidden_calls="time:sleep", pythonpath="lib/site-packages")
    assert set(run.results.values()) == {"failed"}, run.text
    assert "time:sleep called at test_it.py:" in run.told["test_for_the_application"]
    assert "time:sleep called at vendor.py:5 " in run.told["test_beside"]


def test_function_that_was_imported_by_name(suite, pytester):
    """As the documentation says, only its module's own can be pickled while it is forbidden; once the test is over, both can."""
    (pytester.path / "svc.py").write_text("def ask():\n    return 1\n")
    source = """
    import pickle
    import svc
    from svc import ask

    async def test_it(engine):
        assert pickle.loads(pickle.dumps(svc.ask))() == 1
        with pytest.raises(pickle.PicklingError, match="not the same object"):
            pickle.dumps(ask)

    @pytest.fixture
    def over():
        assert pickle.loads(pickle.dumps(ask)) is ask is svc.ask

    def test_after(over):
        pass
    """
    run = suite(source, poolguard_forbidden_calls="svc:ask", pythonpath=".")
    assert set(run.results.values()) == {"passed"}, run.text


def test_another_thread_replaces_nothing(monkeypatch):
    """A checkout in another thread may come while the test's own replaces something: it leaves that alone."""
    calls = ForbiddenCalls(["time:sleep", "late_module:ask"], list, lambda *_: True)
    late = types.ModuleType("late_module")
    ask = late.ask = lambda: None
    calls.enter()
    try:
        monkeypatch.setitem(sys.modules, "late_module", late)
        thread = threading.Thread(target=calls.look_again)
        thread.start()
        thread.join()
        assert late.ask is ask
        calls.look_again()
        assert late.ask is not ask
    finally:
        calls.leave()
    assert late.ask is ask
