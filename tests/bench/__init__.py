"""Benchmarks: ``python -m tests.bench``, which writes ``docs/performance.md``."""

import stream_monitor  # noqa: F401 - before NumPy, as in the service: it sets the threads of BLAS
