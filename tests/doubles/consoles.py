"""A PgBouncer's console as the doctor has read it."""

from __future__ import annotations

from sqla_poolguard._cli.doctor.sights import Console, ConsoleDatabase, ConsolePool

__all__ = ["CONSOLE"]

CONSOLE = Console(
    version="1.24.1",
    max_client_conn=100,
    default_pool_size=20,
    reserve_pool_size=0,
    max_db_connections=0,
    max_prepared_statements=200,
    ignore_startup_parameters=frozenset(),
    pool_sizes={},
    databases={"orders": ConsoleDatabase(server="db:5432", pool_size=20, reserve=0, most=0)},
    users={},
    pools=(ConsolePool(database="orders", user="app", clients=3, waiting=0, longest_wait=0.0),),
)
