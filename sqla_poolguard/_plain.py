"""Facts as plain data, for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(fact: Any) -> Any:
    """Make dictionaries, lists, texts and numbers of facts, whatever fields they have."""
    if dataclasses.is_dataclass(fact):
        return {field.name: plain(getattr(fact, field.name)) for field in dataclasses.fields(fact)}
    if isinstance(fact, Mapping):
        return {str(key): plain(value) for key, value in fact.items()}
    if isinstance(fact, (list, tuple)):
        return [plain(each) for each in fact]
    return fact if fact is None or isinstance(fact, (str, int, float, bool)) else str(fact)
