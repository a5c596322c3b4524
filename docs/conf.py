"""How Sphinx builds the documentation: `tox -e docs`."""

from __future__ import annotations

import sqla_poolguard

project = "sqla-poolguard"
author = "the sqla-poolguard authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name
version = release = sqla_poolguard.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changelog.d/*"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "sqla-poolguard"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
default_role = "code"
nitpicky = False
