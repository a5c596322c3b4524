"""The command `poolguard`, and `python -m sqla_poolguard`: finds out what is not installed, then hands over to `_cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRAS = {"click": "cli", "rich": "cli", "psycopg": "cli", "psycopg_binary": "cli", "asyncpg": "cli,postgresql"}
"""Which extra brings what the commands need; the demo needs more, all of which is in its own."""


def main() -> None:
    """Run the command line; what it needs is an extra, and if it is missing the reader is told which."""
    try:
        from sqla_poolguard._cli.command import poolguard  # noqa: PLC0415 - click may be missing

        poolguard(prog_name="poolguard")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "sqla_poolguard", "sqla-poolguard"}:
            raise
        extra = "demo" if "demo" in sys.argv[1:2] else _EXTRAS.get(missing, "demo")
        sys.stderr.write(
            f'poolguard: the package {missing!r} is not installed: pip install "sqla-poolguard[{extra}]" installs all it needs.\n'
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
