"""What every folder of tests shares."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

from sqla_poolguard._cli.embedded import EmbeddedPostgres

# a shell that runs pytest in the background makes it deaf to SIGINT, and with it the children that tests interrupt
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", database=None, print_blob=True)
settings.register_profile("long", database=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("POOLGUARD_HYPOTHESIS", "default"))


@pytest.fixture(scope="session")
def postgres_url():
    """Give the URL of a real PostgreSQL, started for this session; where none can be started, tests fail."""
    with EmbeddedPostgres() as server:
        yield server.url()
