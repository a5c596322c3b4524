"""The one error of `poolguard size`: it could not run."""

from __future__ import annotations

import click

__all__ = ["SizeError"]


class SizeError(click.ClickException):
    """It cannot run; the message is a sentence that says why and what to do."""

    exit_code = 2
