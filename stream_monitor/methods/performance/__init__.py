"""How often a classifier is right: measured with labels, estimated without."""

from stream_monitor.methods.performance import cbpe, realized

__all__ = ["cbpe", "realized"]
