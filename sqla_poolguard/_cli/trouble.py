"""How the command line says that it was called wrongly: in a sentence, and where JSON was asked for, in JSON too."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Commands"]

_SCHEMAS: Final = {"size": "poolguard.size/1", "doctor": 1}
"""What the JSON of a command calls itself, in its errors too."""


class Commands(click.Group):
    """A group of commands, each of which answers in JSON where it is asked to, also when its options cannot be read."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override] # by name only
        """Run a command; what click would say of wrong options is said in one JSON document besides, on standard output."""
        given = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(given, standalone_mode=False, **options)
        try:
            status = super().main(given, standalone_mode=False, **options)
        except click.ClickException as error:
            if _wants_json(given):
                schema = next((_SCHEMAS.get(word) for word in given if word in self.commands), None)
                document = {} if schema is None else {"schema": schema}
                click.echo(json.dumps(document | {"error": error.format_message()}, indent=2))
            error.show()
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("Aborted!", err=True)
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _wants_json(given: Sequence[str]) -> bool:
    """Tell it of arguments that could not be read: what they say of themselves."""
    return "--json" in given or "--format=json" in given or ("--format", "json") in pairwise(given)
