"""What holds of every method that is registered, whatever it measures."""

from __future__ import annotations

from dataclasses import fields
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_monitor.batch import ColumnBatch
from stream_monitor.cli import main
from stream_monitor.cli.methods import definitions
from stream_monitor.config.load import parse_config
from stream_monitor.decode.base import Target
from stream_monitor.decode.table import TableDecoder
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Block, Sketcher
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.build import build_profile
from stream_monitor.reference.learned import loaded, target_of
from stream_monitor.reference.profile import Profile
from stream_monitor.tables import Chunk, read_chunks
from tests import worlds

EVERY = [*REGISTRY.block, *REGISTRY.sketch]
REGRESSION = {"dle", "realized_losses"}


def table(rows: int, seed: int, *, regression: bool) -> Any:
    found = worlds.table(rows, seed)
    if regression:
        rng = np.random.default_rng(seed)
        truth = np.exp(found["ratio"].to_numpy() + rng.normal(0, 0.2, rows))
        for name in ("prediction", "label"):
            found = found.drop_columns([name])
        guess = np.exp(found["ratio"].to_numpy())
        found = found.drop_columns(["score"]).append_column("prediction", pa.array(guess))
        found = found.append_column("label", pa.array(truth))
    return found


class Made:
    """A profile with every method that applies, and batches to count."""

    def __init__(self, folder: Path, *, regression: bool) -> None:
        self.folder, self.regression = folder, regression
        pa.parquet.write_table(table(2_000, 1, regression=regression), folder / "train.parquet")
        self.config = parse_config(
            worlds.raw_config(methods={"blocks": EVERY}), place="test", folder=folder
        )
        self.profile: Profile = build_profile(
            [folder / "train.parquet"],
            self.config,
            model="loans",
            version="1",
            registry=REGISTRY,
            progress=lambda _phase, _done: None,
        )

    def method(self, name: str) -> Block | Sketcher:
        p = self.profile
        _, blocks, sketchers = loaded(REGISTRY, p.schema, p.cells, p.learned)
        return blocks[name] if name in blocks else sketchers[name]

    def batch(self, found: Any) -> ColumnBatch:
        path = self.folder / "window.parquet"
        pa.parquet.write_table(found, path)
        (chunk,) = read_chunks([path])
        assert isinstance(chunk, Chunk)
        target: Target = target_of("loans", "1", self.profile.schema, self.profile.cells)
        return TableDecoder(self.config.mapping, [target]).decode(chunk).batches[0]

    def window(self, rows: int = 600) -> ColumnBatch:
        return self.batch(table(rows, 2, regression=self.regression))

    def nothing(self, rows: int = 50) -> ColumnBatch:
        """Rows with a time and nothing else."""
        found = table(rows, 3, regression=self.regression)
        empty = {n: pa.nulls(rows, found[n].type) for n in found.column_names if n != "ts"}
        return self.batch(pa.table({"ts": found["ts"], **empty}))


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("classification"), regression=False)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("regression"), regression=True)


@pytest.fixture(params=EVERY)
def case(request: pytest.FixtureRequest, classification: Made, regression: Made) -> Any:
    made = regression if request.param in REGRESSION else classification
    return request.param, made, made.method(request.param)


def contents(batch: ColumnBatch) -> list[bytes]:
    found = []
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, np.ndarray):
            found.append(value.tobytes())
    return found


def counted(made: Made, name: str, method: Any, batch: ColumnBatch | None) -> Counted:
    """A window of these rows, or of none, of which only the method's part is filled."""
    layout = made.profile.layout
    vector = np.zeros(layout.size, dtype=np.int64)
    sketches = {}
    if batch is not None:
        vector[0] = len(batch)
        if name in REGISTRY.block:
            group = np.zeros(len(batch), dtype=np.int64)
            vector[layout.blocks[name]] = method.addends(batch).counts(group, 1)[0]
        else:
            sketches[name] = method.sketch(batch)
    return Counted(layout, vector, sketches)


def test_every_registered_method_applies_somewhere(classification: Made, regression: Made) -> None:
    learned = classification.profile.learned.keys() | regression.profile.learned.keys()
    assert learned == {*EVERY, *REGISTRY.row}
    assert not REGRESSION & classification.profile.learned.keys()


def test_any_parts_in_any_order_count_the_same(case: Any) -> None:
    name, made, method = case
    batch = made.window()
    before = contents(batch)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(batch))
    parts = np.split(order, np.sort(rng.integers(0, len(batch), 6)))
    parts = [p for p in parts if len(p)]
    if name in REGISTRY.block:
        group = rng.integers(0, 3, len(batch))
        whole = method.addends(batch).counts(group, 3)
        assert whole.dtype == np.int64
        assert whole.shape == (3, method.size)
        total = sum(method.addends(batch.take(p)).counts(group[p], 3) for p in parts)
        np.testing.assert_array_equal(total, whole)
    else:
        merged = method.sketch(batch.take(parts[0]))
        for part in parts[1:]:
            merged = method.sketch(batch.take(part)).merged(merged)
        data = method.sketch(batch).to_bytes()
        assert merged.to_bytes() == data
        assert method.from_bytes(data).to_bytes() == data
        assert len(data) <= method.most_bytes
    assert contents(batch) == before


def test_a_window_has_the_same_values_always_and_each_is_defined(case: Any) -> None:
    name, made, method = case
    methods = REGISTRY.block if name in REGISTRY.block else REGISTRY.sketch
    measure = method.bind(made.profile.whole.reference)
    names = []
    for batch in (made.window(), made.window(1), made.nothing(), None):
        found = list(measure.measure(counted(made, name, method, batch)))
        assert {m.definition for m in found} <= set(methods[name].definitions)
        for m in found:
            # a value lies in its range or is not there at all
            assert isnan(m.value) or m.definition.low <= m.value <= m.definition.high, m
            assert m.rows >= 0
            assert isnan(m.spread) or m.spread >= 0 or name == "cardinality"
        names.append([(m.definition.family, m.metric, m.feature) for m in found])
    assert names[1:] == names[:-1]
    assert len(set(names[0])) == len(names[0])


def test_the_same_window_gives_the_same_bits(case: Any) -> None:
    name, made, method = case
    again = made.method(name)
    values = []
    for one in (method, again):
        measure = one.bind(made.profile.whole.reference)
        window = counted(made, name, one, made.window())
        vector = window.vector.copy()
        values.append([np.float64(m.value).tobytes() for m in measure.measure(window)])
        np.testing.assert_array_equal(window.vector, vector)
    assert values[0] == values[1]


def test_the_command_lists_every_metric_with_its_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    metrics = {definition.metric for _, definition in definitions()}
    assert {"jensen_shannon", "roc_auc", "mean", "duplicate_ids", "rows_count"} <= metrics
    lines = [line.split("│") for line in listed.splitlines() if "│" in line]
    assert metrics == {line[2].strip() for line in lines if line[2].strip()} - {"metric"}
    assert all(definition.help.endswith(".") for _, definition in definitions())
    chosen = [key for key, _ in definitions()]
    assert {key.split(":")[0] for key in chosen} == {
        "always", "methods.continuous", "methods.categorical", "methods.quality",
        "methods.outliers", "methods.blocks", "labels",
    }  # fmt: skip
