"""The figures that the acts and the server process must agree on. Seconds are floats."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Self

__all__ = [
    "GRPC",
    "HTTP",
    "LIMIT",
    "MAX_OVERFLOW",
    "OTLP_PROTOCOLS",
    "PAYMENT_SECONDS",
    "POOL_SIZE",
    "SHOP_AWAIT_WARNING",
    "SHOP_TIMEOUT",
    "ServerSettings",
]

POOL_SIZE: Final = 5
MAX_OVERFLOW: Final = 10
LIMIT: Final = POOL_SIZE + MAX_OVERFLOW
"""SQLAlchemy's defaults, for both pools."""

SHOP_TIMEOUT: Final = 1.5
"""`pool_timeout` where a pool runs dry on purpose; the burst has SQLAlchemy's default, 30 s."""
SHOP_AWAIT_WARNING: Final = 0.5
"""After this long a held connection is worth a line in the log."""
PAYMENT_SECONDS: Final = 3.0
"""How long the payment provider takes to answer."""

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
OTLP_PROTOCOLS: Final = (HTTP, GRPC)
"""As OTEL_EXPORTER_OTLP_PROTOCOL has them."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server process needs to know."""

    database: str
    """SQLAlchemy URL, password included: it travels through a pipe, never on a command line."""
    payments: str
    """Address of the payment provider."""
    otlp_protocol: str = HTTP
    """How spans and metrics go."""
    otlp_traces: str | None = None
    """Where spans go; None: nowhere."""
    otlp_metrics: str | None = None
    """Where metrics go; None: nowhere."""

    def to_json(self) -> dict[str, Any]:
        """Give what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(**values)
