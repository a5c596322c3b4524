"""What the environment of the process says: how many workers, a function as a service, which packages. It looks at no engine."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy

from sqla_poolguard._budget import Processes
from sqla_poolguard._cli.doctor.evidence import Circumstances
from sqla_poolguard._cli.doctor.trouble import DoctorError
from sqla_poolguard._cli.surge import surge_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["look_around"]

_FUNCTIONS: Final = ("AWS_LAMBDA_FUNCTION_NAME", "FUNCTION_TARGET", "FUNCTIONS_WORKER_RUNTIME", "VERCEL")
_INSTRUMENTOR: Final = "opentelemetry-instrumentation-sqlalchemy"
_WORKERS: Final = "WEB_CONCURRENCY"


def look_around(counts: Mapping[str, Any], **told: float | None) -> Circumstances:
    """
    Put together what was told and what the environment says.

    Args:
        counts: of processes, by the names of `Processes`, of which the surge may be a percentage; None where nobody said.
        told: the other figures of `Circumstances`; None where nobody said.

    Raises:
        DoctorError: a count that cannot be.
    """
    given = {name: count for name, count in counts.items() if count is not None}
    said = " ".join(f"--{name} {count}" for name, count in given.items())
    workers = os.environ.get(_WORKERS, "")
    if "workers" not in given and workers.isdigit() and int(workers) > 0:
        given["workers"] = int(workers)
        said = f"{said} {_WORKERS}={workers}".strip()
    if "surge" in given:
        given["surge"] = surge_of(given["surge"], given.get("replicas", 1))
    try:
        processes = Processes(**given)
    except ValueError as error:
        raise DoctorError(str(error)) from None
    refuses, version = _instrumentor()
    return Circumstances(
        processes=processes,
        processes_from=said or None,
        serverless=any(os.environ.get(name) for name in _FUNCTIONS),
        preload="GUNICORN_CMD_ARGS" if "--preload" in os.environ.get("GUNICORN_CMD_ARGS", "").split() else None,
        sqlalchemy=sqlalchemy.__version__,
        asyncpg=_version("asyncpg"),
        instrumentor=version,
        instrumentor_refuses=refuses,
        instrumented=_instrumented(),
        **{name: value for name, value in told.items() if value is not None},
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _instrumentor() -> tuple[str | None, str | None]:
    """Give the versions of SQLAlchemy that OpenTelemetry's instrumentor is for, if the installed one is not among them; and its own."""
    version = _version(_INSTRUMENTOR)
    if version is None:
        return None, None
    from packaging.requirements import Requirement  # noqa: PLC0415 - it comes with the instrumentor

    wanted = [Requirement(line) for line in metadata.requires(_INSTRUMENTOR) or ()]
    mine = [one for one in wanted if one.name == "sqlalchemy" and one.marker and one.marker.evaluate({"extra": "instruments"})]
    refusing = [one for one in mine if not one.specifier.contains(sqlalchemy.__version__, prereleases=True)]
    return (str(refusing[0].specifier) if refusing else None), version


def _instrumented() -> bool:
    """Tell whether every engine that is made is instrumented: only what the application has imported is looked at."""
    module: Any = sys.modules.get("opentelemetry.instrumentation.sqlalchemy")
    return bool(module and module.SQLAlchemyInstrumentor().is_instrumented_by_opentelemetry)
