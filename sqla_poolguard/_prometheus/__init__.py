"""The rooms behind `sqla_poolguard.prometheus`: what Prometheus is told about every pool of the process, without OpenTelemetry."""
