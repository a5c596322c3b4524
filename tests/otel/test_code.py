"""What a function is called on a span: in full, with its module, wherever that can be told."""

from __future__ import annotations

import importlib.util
import sys

from sqla_poolguard._otel import _code
from sqla_poolguard._otel._code import full_name


def test_name_with_its_module():
    """Module and qualified name, as the semantic conventions want it."""
    code = test_name_with_its_module.__code__
    assert full_name(code.co_filename, code.co_qualname) == f"{__name__}.test_name_with_its_module"


def test_name_without_a_module():
    """Code that no module was loaded from keeps its qualified name."""
    assert full_name("<generated>", "Maker.made") == "Maker.made"


def test_modules_that_are_loaded_lazily_stay_so(monkeypatch, tmp_path):
    """To look for a module loads none of those that are to be loaded when they are used; nor does what is no module hurt."""
    file = tmp_path / "lazy_one.py"
    file.write_text("loaded = True\nraise RuntimeError")
    spec = importlib.util.spec_from_file_location("lazy_one", file)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "lazy_one", module)
    monkeypatch.setitem(sys.modules, "no_module", None)
    _code._module_of.cache_clear()
    assert full_name("/nowhere.py", "f") == "f"
    assert "loaded" not in object.__getattribute__(module, "__dict__")


def test_each_file_is_looked_for_once(monkeypatch):
    """The modules are searched once for each file, not for each span."""
    _code._module_of.cache_clear()
    assert full_name(__file__, "f") == f"{__name__}.f"
    monkeypatch.setattr(_code, "sys", None)
    assert full_name(__file__, "g") == f"{__name__}.g"
