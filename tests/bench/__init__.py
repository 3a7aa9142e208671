"""Benchmarks: ``python -m tests.bench``, which writes ``docs/performance.md``."""
