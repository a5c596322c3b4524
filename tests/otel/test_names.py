"""The names are those of the semantic conventions, and are written down once."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from opentelemetry.semconv._incubating.attributes import code_attributes, db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas

import sqla_poolguard
from sqla_poolguard._otel import _names as names

PACKAGE = pathlib.Path(sqla_poolguard.__file__).parent
NINE = ["count", "idle_max", "idle_min", "max", "pending_requests", "timeouts", "create_time", "wait_time", "use_time"]


class Conventions:
    """A meter that notes what the conventions' own package makes with it."""

    def __getattr__(self, kind):
        return names.Instrument


@pytest.mark.parametrize("metric", NINE)
def test_metric_is_as_the_conventions_have_it(metric):
    """Each of the nine has the name, unit and description of OpenTelemetry's package."""
    expected = getattr(db_metrics, f"create_db_client_connection_{metric}")(Conventions())
    assert getattr(names, f"CONNECTION_{metric.upper()}") == expected


def test_attributes_are_as_the_conventions_have_them():
    """So are the attributes and the states."""
    assert names.POOL_NAME == db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
    assert names.STATE == db_attributes.DB_CLIENT_CONNECTION_STATE
    assert {names.IDLE, names.USED} == {state.value for state in db_attributes.DbClientConnectionStateValues}
    assert names.CODE_FILE == code_attributes.CODE_FILE_PATH
    assert names.CODE_LINE == code_attributes.CODE_LINE_NUMBER
    assert names.CODE_FUNCTION == code_attributes.CODE_FUNCTION_NAME
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert names.SCHEMA_URL in {schema.value for schema in Schemas}


def test_no_name_is_another_one_s_namespace():
    """What stands before a dot is no attribute itself, as the conventions have it, and no metric."""
    said = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    said += [value.name for value in vars(names).values() if isinstance(value, names.Instrument)]
    assert "poolguard.verdict.cause" in said
    assert [name for name in said if any(other.startswith(f"{name}.") for other in said)] == []


def test_names_are_in_one_file():
    """No other module spells a name of the conventions."""
    spelling = [path.name for path in PACKAGE.rglob("*.py") if '"db.client.' in path.read_text(encoding="utf-8")]
    assert spelling == ["_names.py"]


def test_opentelemetry_is_imported_in_one_room():
    """No other module imports OpenTelemetry, but for the command's exporters and the types of two options."""
    importing = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if any(
            line.strip().startswith(("import opentelemetry", "from opentelemetry"))
            for line in path.read_text("utf-8").splitlines()
        )
    }
    assert importing - {"_cli", "_guard.py"} == {"_otel"}


def test_only_the_api_is_needed():
    """Telemetry imports no SDK and no conventions package: those who have the API alone can use it."""
    program = "import sys, sqla_poolguard._otel; print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.semconv'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"
