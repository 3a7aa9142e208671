"""The methods. Importing this registers them all; a new one is one file and one line here."""

from stream_monitor.methods import (  # noqa: F401 - imported for their registration
    cardinality,
    chi_squared,
    domain_classifier,
    half_space_trees,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    l_infinity,
    outlier_features,
    performance,
    psi,
    quality,
    reconstruction,
    regression,
    statistics,
    unseen_names,
    wasserstein,
)
from stream_monitor.methods.base import REGISTRY

__all__ = ["REGISTRY"]
