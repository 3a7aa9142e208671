"""stream_monitor: online drift, outlier and data-quality monitor for model servers."""

import os
from importlib.metadata import version

# Before NumPy is loaded: a batch's product of matrices is too small to share, and threads that wait
# for the next one by spinning take a processor from the model server beside us.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = version("stream-monitor")

__all__ = ["__version__"]
