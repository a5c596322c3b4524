"""How instruments are made and fed, with any API and with or without an SDK behind it. It knows no pool."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpCounter, NoOpHistogram
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from sqla_poolguard._otel import _names as names

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter

__all__ = ["make_histogram", "no_context", "nobody_measures", "real_meter"]

_IDLE: Final = NoOpCounter, NoOpHistogram
"""Of the API's own provider, and of an SDK that is disabled (`OTEL_SDK_DISABLED`)."""


def nobody_measures(instrument: object) -> bool:
    """Tell whether an instrument does nothing, or stands for one that an SDK, which is not there yet, would make."""
    real = getattr(instrument, "_real_instrument", instrument)
    return real is None or isinstance(real, _IDLE)


def real_meter(meter: Meter) -> object:
    """Give the SDK's meter for which one may stand that was asked for before there was an SDK."""
    return getattr(meter, "_real_meter", None) or meter


def make_histogram(meter: Meter, instrument: names.Instrument) -> Histogram:
    """Make a histogram of seconds; a meter of an older API than 1.30 takes no advice about buckets."""
    try:
        return meter.create_histogram(*instrument, explicit_bucket_boundaries_advisory=names.SECONDS_BUCKETS)
    except TypeError:
        return meter.create_histogram(*instrument)


def no_context(histogram: Histogram) -> tuple[Any, ...]:
    """
    Tell how to record later, in a context that is not its own.

    Without one it would become an exemplar for whatever trace is current then.
    A context that is quite empty will not do: an SDK takes it for none.
    Before API 1.30 `record` takes no context, and makes no exemplars.
    """
    takes_context = "context" in inspect.signature(histogram.record).parameters
    return (set_span_in_context(INVALID_SPAN, Context()),) if takes_context else ()
