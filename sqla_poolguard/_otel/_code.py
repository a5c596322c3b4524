"""
What a function is called, in full, as the semantic conventions want it (`code.function.name`).

The pool remembers code objects, never frames, and a code object does not know its module: a checkout would have to look it up, on the hot path.
So it is looked for when a span is drawn, by its file, among the modules that are loaded; once for each file.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType

__all__ = ["full_name"]


def full_name(file: str, function: str) -> str:
    """Give the name of a function with its module's; without, if no module was loaded from that file (say, it was generated)."""
    module = _module_of(file)
    return f"{module}.{function}" if module is not None else function


@functools.lru_cache(maxsize=1024)
def _module_of(file: str) -> str | None:
    for name, module in list(sys.modules.items()):
        # not `module.__file__`: where modules are loaded lazily, that would load each of them
        if isinstance(module, ModuleType) and ModuleType.__getattribute__(module, "__dict__").get("__file__") == file:
            return name
    return None
