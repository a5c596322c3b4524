"""What the doctor says when it cannot run at all, and how it writes what others said: without passwords."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DoctorError", "hushed", "said", "shown"]

_CREDENTIALS: Final = re.compile(r"//[^/@:\s'\"]*:[^\s'\"]*@")
_PASSWORD: Final = re.compile(r"(?i)\b((?:ssl)?password|passwd|pwd)(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s&,;'\"]+)")


class DoctorError(Exception):
    """The doctor cannot run; the message is one sentence that says why and what to do."""


def hushed(text: str, secrets: Iterable[str] = ()) -> str:
    """Take out of a text what could be a password: the ones that are known, and what stands where passwords stand in URLs."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1\2***", _CREDENTIALS.sub("//***@", text))


def said(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """Give in one line what an error says, without passwords."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return hushed(lines[0] if lines else type(error).__name__, secrets).rstrip(".")


def shown(file: str) -> str:
    """Write a path as seen from here, if it is below."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
