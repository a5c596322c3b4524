"""Tells when a module has been imported that somebody waits for. Nothing of it is there otherwise, nor when all of them are imported."""

from __future__ import annotations

import contextlib
import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["when_imported"]


def when_imported(modules: Collection[str], tell: Callable[[], None]) -> Callable[[], None]:
    """
    Call `tell` whenever one of some modules has been imported, from now on; it must not raise.

    Args:
        modules: their full names; those that are imported already do not count.
        tell: is called in the thread that imports, when the module's code has run.

    Returns:
        Ends that.
    """
    missing = {name for name in modules if name not in sys.modules}
    if not missing:
        return lambda: None
    finder = _Finder(missing, tell)
    sys.meta_path.insert(0, finder)

    def end() -> None:
        missing.clear()
        with contextlib.suppress(ValueError):  # somebody has put back what was there before
            sys.meta_path.remove(finder)

    return end


class _Finder(MetaPathFinder):
    """Finds nothing by itself: of what the others find it notes when it is loaded."""

    def __init__(self, names: set[str], tell: Callable[[], None]) -> None:
        self._names = names
        self._tell = tell
        self._asking: set[str] = set()
        """What the others are asked for now: one of them may be one of ours, and ask us."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Ask the others."""
        if name not in self._names or name in self._asking:
            return None
        self._asking.add(name)
        try:
            for other in sys.meta_path.copy():
                find = getattr(other, "find_spec", None)
                spec: ModuleSpec | None = find(name, path, target) if find is not None and other is not self else None
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader, self._tell)
                    return spec
        finally:
            self._asking.discard(name)
        return None


class _Loader(Loader):
    """Loads what another loader does, and has gone when that begins: the module sees only its own."""

    def __init__(self, inner: Any, tell: Callable[[], None]) -> None:
        self._inner = inner
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        """Answer like the other one, if nothing is to be loaded."""
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let the other one."""
        spec.loader = self._inner
        try:
            module: ModuleType | None = self._inner.create_module(spec) if hasattr(self._inner, "create_module") else None
        finally:
            spec.loader = self
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Likewise, and tell."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._tell()
