"""How far a regression's predictions are off: measured with labels, estimated without."""

from stream_monitor.methods.regression import (  # noqa: F401 - imported for their registration
    direct_loss_estimation,
    realized_losses,
)
