"""Methods that need predictions and labels. Importing this registers them all."""

from stream_monitor.methods.outcomes import (  # noqa: F401 - imported for their registration
    calibration_drift,
    effects,
    selection,
)
