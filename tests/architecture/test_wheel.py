"""What is tested is what is installed: the wheel in tox, the checkout where it is installed as editable."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import sqla_poolguard


def test_the_installed_package_is_tested():
    """Nothing on sys.path hides the wheel that was built."""
    installed = distribution("sqla-poolguard")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    editable = origin.get("dir_info", {}).get("editable", False)
    root = Path(__file__).parents[2] if editable else Path(str(installed.locate_file("")))
    assert Path(sqla_poolguard.__file__) == root.resolve() / "sqla_poolguard" / "__init__.py"
