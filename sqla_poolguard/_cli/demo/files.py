"""Room for many sockets: the burst opens some hundred at once, and some systems allow 256 files by default."""

from __future__ import annotations

__all__ = ["allow_many_files"]

_WANTED = 4096


def allow_many_files() -> None:
    """Raise the soft limit of open files, as far as the system allows without asking."""
    try:
        import resource  # noqa: PLC0415 - Unix only
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
