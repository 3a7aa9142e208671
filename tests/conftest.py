"""Fixtures that more than one test module needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kafka_broker import kafka_broker, kafka_cluster
from tests.nannyml_data import SHARED_DATA, data_folder

__all__ = ["kafka_broker", "kafka_cluster"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets and the peers' own results, beside the checkout."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the real data sets in {SHARED_DATA}")
        pytest.skip(f"the real data sets are not on this machine ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(scope="session")
def nannyml_data() -> Path:
    """The folder of NannyML's sample data sets; the package registry has them where nobody else."""
    return data_folder()
