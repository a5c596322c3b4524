"""`poolguard prometheus`: prints the files that come with the package. It reads no pool."""

from __future__ import annotations

import click

from sqla_poolguard._prometheus import files

__all__ = ["prometheus"]


@click.group()
def prometheus() -> None:
    """Print what Prometheus and Grafana need."""


@prometheus.command()
def rules() -> None:
    """Print recording and alert rules, for `rule_files` of Prometheus."""
    click.echo(files.rules(), nl=False)


@prometheus.command()
def dashboard() -> None:
    """Print a dashboard, to import into Grafana."""
    click.echo(files.dashboard(), nl=False)
