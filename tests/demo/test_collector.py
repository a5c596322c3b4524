"""How `poolguard demo --otlp` finds a collector, and what it says where there is none."""

from __future__ import annotations

import socket

import pytest
from doubles.collector import Collector

from sqla_poolguard._cli.demo.collector import find_collector
from sqla_poolguard._cli.demo.trouble import DemoError

HTTP, GRPC = "http/protobuf", "grpc"


@pytest.fixture(scope="module")
def collector():
    """An OTLP collector."""
    with Collector() as listening:
        yield listening


@pytest.fixture
def deaf():
    """The address of a port on which nobody listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unheard.getsockname()[1]}"


def test_http_is_what_is_usual(collector):
    """An address is one of OTLP/HTTP, with or without the path of a signal."""
    for path in ("", "/", "/v1/traces", "/v1/metrics"):
        found = find_collector(collector.http + path, None)
        assert (found.url, found.protocol) == (collector.http, HTTP)
        assert (found.traces, found.metrics) == (f"{collector.http}/v1/traces", f"{collector.http}/v1/metrics")


def test_grpc_has_one_address_for_all(collector):
    """OTLP/gRPC is spoken where it is asked for; it has no paths."""
    found = find_collector(f"{collector.grpc}/v1/traces", GRPC)
    assert (found.protocol, found.traces, found.metrics) == (GRPC, collector.grpc, collector.grpc)


@pytest.mark.parametrize(("port", "protocol"), [(4317, "OTLP/gRPC"), (4318, "OTLP collector")])
def test_port_tells_the_protocol(port, protocol):
    """Port 4317 is that of OTLP/gRPC, at whatever host; any other is one of OTLP/HTTP."""
    with pytest.raises(DemoError, match=protocol):
        find_collector(f"http://127.9.9.9:{port}", None)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_jaeger_takes_no_metrics(protocol):
    """A collector that takes spans and no metrics is one, too."""
    with Collector(metrics=False) as jaeger:
        assert find_collector(jaeger.address(protocol), protocol).metrics is None


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_nobody_listens(deaf, protocol):
    """Who is not there is named."""
    with pytest.raises(DemoError, match=f"cannot reach .* at {deaf} .*start one there"):
        find_collector(deaf, protocol)


def test_wrong_protocol(collector):
    """Who confuses the two ports is told for which protocol to ask."""
    with pytest.raises(DemoError, match="--otlp-protocol grpc"):
        find_collector(collector.grpc, HTTP)
    with pytest.raises(DemoError, match="--otlp-protocol http/protobuf"):
        find_collector(collector.http, GRPC)


def test_password_for_grpc():
    """The gRPC exporter takes no password in its address; it is not told either."""
    with pytest.raises(DemoError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        find_collector("http://bob:secret@127.0.0.1:4317", None)
    assert "secret" not in str(caught.value)


def test_broken_collector():
    """A gRPC collector that takes spans and breaks over metrics is not taken for one that takes none."""
    with Collector() as collector:
        collector.break_for = "ExportMetricsServiceRequest"
        with pytest.raises(DemoError, match="INTERNAL"):
            find_collector(collector.grpc, GRPC)


@pytest.mark.parametrize("address", ["grpc://localhost:4317", "http://localhost:port", "http://[localhost", "", "localhost:4318"])
def test_address_of_another_kind(address):
    """What is no address is refused with an example."""
    with pytest.raises(DemoError, match="--otlp wants an address such as http://localhost:4318"):
        find_collector(address, None)
