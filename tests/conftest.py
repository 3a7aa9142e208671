"""Fixtures that more than one test module needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kafka_broker import kafka_broker, kafka_cluster
from tests.nannyml_data import SHARED_DATA, data_folder

__all__ = ["kafka_broker", "kafka_cluster"]

# Those that wait for servers and processes most, the longest first: begun last, one of them would
# keep a single process busy while the others have nothing left to do.
_LONG = (
    "test_outages",
    "test_replay",
    "test_replicas",
    "test_kafka_cluster",
    "test_late_crashes",
    "test_crashes",
    "test_any_bytes",
    "test_fuzz",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files; the others stay in their order."""
    order = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(_LONG)))


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
