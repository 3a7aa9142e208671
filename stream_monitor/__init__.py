"""stream_monitor: online drift, outlier and data-quality monitor for model servers."""

from importlib.metadata import version

__version__ = version("stream-monitor")

__all__ = ["__version__"]
