"""Segments: each is measured as if its rows were all there were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from stream_monitor.backtest import backtest
from stream_monitor.errors import ProfileError
from stream_monitor.values import Value, WindowResult
from stream_monitor.watch import watch
from tests import worlds

SEGMENTS = [{"by": ["channel"], "most": 3}, {"by": ["member", "channel"], "most": 2}]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[WindowResult]:
    folder = tmp_path_factory.mktemp("world")
    world = worlds.build(folder, segments=SEGMENTS)
    config = world.config(
        windows=[{"name": "batch", "rows": 2_000}, {"name": "hour", "size": "1h"}]
    )
    (folder / "events.jsonl").write_bytes(b"\n".join(worlds.events(6_000, 2, shift=0.3)))
    watched, windows = watch(config, "test")
    found, _ = backtest([folder / "events.jsonl"], config, watched, windows, lambda _: None)
    return found


def value(result: WindowResult, metric: str, feature: str = "") -> Value:
    (found,) = [v for v in result.values if (v.metric, v.feature) == (metric, feature)]
    return found


def test_the_most_frequent_combinations_of_the_reference_are_the_segments(results: Any) -> None:
    reference = worlds.columns(4_000, 1)
    by_channel = [f"channel={c}" for c in worlds.CHANNELS]
    rare = min(by_channel, key=lambda c: np.sum(reference["channel"] == c[8:]))
    both = [f"member={m}, channel={c}" for m in ("false", "true") for c in worlds.CHANNELS]

    def count(label: str) -> int:
        member, channel = (part.split("=")[1] for part in label.split(", "))
        return int(
            np.sum((reference["member"] == (member == "true")) & (reference["channel"] == channel))
        )

    frequent = sorted(both, key=count)[-2:]
    assert {r.segment for r in results} == {"", *by_channel, *frequent} - {rare}


def test_values_of_a_segment_are_those_of_its_rows(results: Any) -> None:
    reference, window = worlds.columns(4_000, 1), worlds.columns(6_000, 2, shift=0.3)
    edges = np.histogram_bin_edges(reference["income"][~np.isnan(reference["income"])], "doane")
    batches = [r for r in results if r.segment == "channel=web" and r.window == "batch"]
    assert [r.index for r in batches] == [0, 1, 2]
    for result in batches:
        rows = slice(2_000 * result.index, 2_000 * (result.index + 1))
        own = window["channel"][rows] == "web"
        assert result.rows == own.sum()
        shares = []
        for side, chosen in ((reference, reference["channel"] == "web"), (window, None)):
            values = side["income"][chosen] if chosen is not None else side["income"][rows][own]
            known = values[~np.isnan(values)]
            inside = np.histogram(known, edges)[0]
            shares.append(np.append(inside, len(known) - inside.sum()) / len(known))
        expected = jensenshannon(*shares, base=2)
        assert value(result, "jensen_shannon", "income").value == pytest.approx(expected, rel=1e-9)
        missing = np.isnan(window["income"][rows][own]).mean()
        assert value(result, "missing_values", "income").value == pytest.approx(missing, rel=1e-12)


def test_drift_in_every_segment_is_flagged_in_each(results: Any) -> None:
    hours = [r for r in results if r.window == "batch" and r.closed and r.segment]
    flags = [value(r, "jensen_shannon", "income").alert for r in hours if r.rows > 500]
    assert len(flags) >= 6
    assert flags.count(True) > 0.8 * len(flags)


def test_rows_of_a_set_add_up_to_at_most_the_whole(results: Any) -> None:
    for window in ("batch", "hour"):
        whole = {r.index: r.rows for r in results if r.window == window and not r.segment}
        for index, rows in whole.items():
            own = [
                r.rows
                for r in results
                if r.window == window and r.index == index and r.segment.startswith("channel=")
            ]
            assert 0 < sum(own) < rows


@pytest.mark.parametrize(("by", "says"), [("age", "no categorical column"), ("nothing", "channel")])
def test_a_segment_by_what_is_no_category_is_refused(tmp_path: Path, by: str, says: str) -> None:
    with pytest.raises(ProfileError, match=r"segments\[0\]\.by.*" + says):
        worlds.build(tmp_path, segments=[{"by": [by]}])


def test_fields_of_the_segment_object_are_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = worlds.table(4_000, 1)
    region = np.where(np.arange(4_000) % 3 == 0, "north", "south")
    pq.write_table(table.append_column("segment.region", pa.array(region)), tmp_path / "t.parquet")
    worlds.build(tmp_path)
    from stream_monitor.cli import main

    (tmp_path / "monitor.yaml").write_text(
        "models: [{name: loans, version: '1', reference: loans.ref}]\n"
        "windows: [{name: hour, size: 1h}]\n"
        "segments: [{by: [segment.region]}]\n"
    )
    arguments = [
        "--config",
        str(tmp_path / "monitor.yaml"),
        "--output",
        str(tmp_path / "loans.ref"),
    ]
    assert main(["reference", "build", str(tmp_path / "t.parquet"), *arguments]) == 0
    table = tmp_path / "windows.parquet"
    arguments[-1] = str(table)
    assert main(["backtest", "--events", str(tmp_path / "t.parquet"), *arguments]) == 0
    found = pq.read_table(table).to_pylist()
    assert {r["segment"] for r in found} == {"", "segment.region=north", "segment.region=south"}
