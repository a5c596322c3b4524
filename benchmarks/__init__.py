"""Benchmarks: GuardedPool beside what people use today, all in one run, block by block. Start with `python -m benchmarks --list`."""

from __future__ import annotations
