"""What is tested is what is installed: the wheel in tox, the checkout where it is installed as editable."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import sqla_poolguard

MODULE = Path("sqla_poolguard", "__init__.py")


def test_the_installed_package_is_tested():
    """Nothing on sys.path hides the wheel that was built; an editable one holds no modules."""
    installed = distribution("sqla-poolguard")
    is_wheel = any(Path(file) == MODULE for file in installed.files or ())
    root = Path(str(installed.locate_file(""))) if is_wheel else Path(__file__).parents[2]
    assert Path(sqla_poolguard.__file__) == root.resolve() / MODULE
