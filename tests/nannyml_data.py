"""NannyML's sample data sets, and the numbers that NannyML itself gives for them.

The data sets come with NannyML's wheel. They lie in one folder, three Parquet files a data set:
``nannyml_<data set>_reference``, ``_analysis`` (without labels) and ``_targets`` (id and label).
That folder is ``../shared/data`` beside the checkout where it exists, else ``.cache/`` of the
checkout, where the wheel of the package registry is unpacked to once.

The numbers are committed, in ``tests/figures``: see ``tests/figures/make.py``.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_DATA = CHECKOUT.parent / "shared" / "data"
FIGURES = CHECKOUT / "tests" / "figures"

NANNYML = "nannyml==0.13.1"
WHEEL = "nannyml-0.13.1-py3-none-any.whl"
WHEEL_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
CACHE = CHECKOUT / ".cache" / "nannyml-0.13.1"

Part = Literal["reference", "analysis", "targets"]
PARTS: tuple[Part, ...] = ("reference", "analysis", "targets")


@dataclass(frozen=True)
class Dataset:
    """One of NannyML's data sets and what a user has to say about its columns.

    ``members`` names the wheel's files of the three parts.
    """

    name: str
    members: tuple[str, str, str]
    label: str
    classes: tuple[str, ...] = ()  # of a score each; none: one score, or a regression
    ignored: tuple[str, ...] = ()
    domain_classifier: bool = False  # whether NannyML's tables have it

    @property
    def mapping(self) -> dict[str, Any]:
        """The section of the configuration."""
        scores = {c: f"y_pred_proba_{c}" for c in self.classes}
        return {
            "timestamp": "timestamp",
            "features": ".",
            "prediction": "y_pred",
            "score": "y_pred_proba",
            "label": self.label,
        } | ({"scores": scores} if scores else {})

    def path(self, folder: Path, part: Part) -> Path:
        return folder / f"nannyml_{self.name}_{part}.parquet"

    def read(self, folder: Path, part: Part) -> pa.Table:
        return pyarrow.parquet.read_table(self.path(folder, part))

    def labelled(self, folder: Path) -> pa.Table:
        """The analysis rows with their labels, in the order of the file."""
        analysis, targets = self.read(folder, "analysis"), self.read(folder, "targets")
        if not analysis["id"].equals(targets["id"]):
            raise ValueError(f"{self.name}: the labels do not stand in the order of the events")
        return analysis.append_column(self.label, targets[self.label])


DATASETS = {
    d.name: d
    for d in (
        Dataset(
            "car_loan",
            (
                "synthetic_car_loan_reference",
                "synthetic_car_loan_analysis",
                "synthetic_car_loan_analysis_target",
            ),
            "repaid",
            domain_classifier=True,
        ),
        Dataset(
            "car_loan_dq",
            (
                "synthetic_car_loan_dq_reference",
                "synthetic_car_loan_dq_analysis",
                "synthetic_car_loan_analysis_target",
            ),
            "repaid",
        ),
        Dataset(
            "binary",
            (
                "synthetic_sample_reference",
                "synthetic_sample_analysis",
                "synthetic_sample_analysis_gt",
            ),
            "work_home_actual",
            ignored=("period",),
        ),
        Dataset(
            "multiclass",
            ("mc_reference", "mc_analysis", "mc_analysis_gt"),
            "y_true",
            classes=("highstreet_card", "prepaid_card", "upmarket_card"),
        ),
        Dataset(
            "car_price",
            (
                "regression_synthetic_reference",
                "regression_synthetic_analysis",
                "regression_synthetic_analysis_targets",
            ),
            "y_true",
        ),
    )
}


def data_folder() -> Path:
    """The folder of the data sets, fetched if need be.

    Raises
    ------
    subprocess.CalledProcessError
        The registry does not give the wheel.
    ValueError
        What it gives is not the wheel that the numbers were computed from.
    """
    if SHARED_DATA.is_dir():
        return SHARED_DATA
    return unpacked()


def unpacked() -> Path:
    """The data sets from NannyML's wheel, as Parquet files in the checkout's cache."""
    if CACHE.is_dir():
        return CACHE
    CACHE.parent.mkdir(exist_ok=True)
    # a folder of another name until it is complete, so that a broken run leaves nothing half done
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir()
        with zipfile.ZipFile(_downloaded(Path(scratch))) as wheel:
            for dataset in DATASETS.values():
                for part, member in zip(PARTS, dataset.members, strict=True):
                    table = _table(wheel, f"nannyml/datasets/data/{member}.csv")
                    path = dataset.path(folder, part)
                    pyarrow.parquet.write_table(table, path, compression="zstd")
        if not CACHE.is_dir():  # else another process was faster
            folder.rename(CACHE)
    return CACHE


def _downloaded(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), NANNYML]
    subprocess.run(command, check=True, timeout=300)
    wheel = folder / WHEEL
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(
            f"{WHEEL} has the SHA-256 {found} instead of {WHEEL_SHA256}: it is not the release "
            f"that the figures in {FIGURES} belong to; check the package registry"
        )
    return wheel


def _table(wheel: zipfile.ZipFile, member: str) -> pa.Table:
    # times stay text, for CSV readers differ in the unit that they give them
    types = pyarrow.csv.ConvertOptions(
        strings_can_be_null=True, column_types={"timestamp": pa.string()}
    )
    with wheel.open(member) as file:
        return pyarrow.csv.read_csv(file, convert_options=types)


@dataclass(frozen=True)
class Figure:
    """A value of NannyML: a row of its tables. NaN stands for what it leaves empty."""

    dataset: str
    calculator: str
    column: str
    metric: str
    chunk_index: int
    start_index: int
    end_index: int
    start_date: str
    end_date: str
    period: str
    rows: int
    value: float
    sampling_error: float
    realized: float
    upper_confidence: float
    lower_confidence: float
    upper_threshold: float
    lower_threshold: float
    alert: bool


_NUMBERS = ("value", "sampling_error", "realized", "upper_confidence", "lower_confidence",
            "upper_threshold", "lower_threshold")  # fmt: skip
_TEXTS = ("dataset", "calculator", "column", "metric", "start_date", "end_date", "period")


@cache
def _figures() -> tuple[Figure, ...]:
    types = dict.fromkeys(_NUMBERS, pa.float64()) | dict.fromkeys(_TEXTS, pa.string())
    table = pyarrow.csv.read_csv(
        FIGURES / "nannyml.csv.gz",
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )
    for name in _NUMBERS:
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, table[name].fill_null(float("nan")))
    return tuple(Figure(**row) for row in table.to_pylist())


def figures(dataset: str, *, period: str = "analysis") -> list[Figure]:
    """NannyML's own numbers for a data set: chunks of 5,000 rows, defaults otherwise."""
    return [f for f in _figures() if f.dataset == dataset and f.period == period]
