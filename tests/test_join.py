"""The join: what labels add, whatever the order, batching and repetition of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from stream_monitor import mature
from stream_monitor.errors import StoreError
from stream_monitor.labels.join import PREDICTED
from stream_monitor.labels.packing import Sharded
from stream_monitor.labels.rows import LABEL
from stream_monitor.pipeline import Pipeline
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import REALIZED, WindowResult
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes
from tests import worlds
from tests.late import Feeder, Json, Piece, Stream, effective, labels_config, lines, opened, stream

HOUR = 3_600
SECTIONS: dict[str, Any] = {
    "segments": [{"by": ["channel"], "most": 2}],
    "limits": {"memory": "64GiB"},
}
STREAM = stream(900, 5)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("late")
    world = worlds.build(folder, rows=3_000, segments=SECTIONS["segments"])
    config = world.config(labels=labels_config(), **SECTIONS)
    watched, windows = watch(config, "test")
    return config, watched, windows


def run(setup: Any, pieces: Iterator[Piece]) -> Pipeline:
    config, watched, windows = setup
    pipeline, _ = opened(config, watched, windows)
    Feeder(config, watched, pipeline).feed(pieces)
    return pipeline


def whole(found: Stream) -> Iterator[Piece]:
    yield "events", "events:0", lines(found.events)
    yield "labels", "labels:0", lines(found.labels)


def panes(pipeline: Pipeline) -> dict[PaneKey, IntArray]:
    """Outcome panes that are not empty, over all joins."""
    found: dict[PaneKey, IntArray] = {}
    for join in pipeline.joins.values():
        for key, pane in join.partition.panes.items():
            found[key] = found.get(key, 0) + pane.counts
    return {key: counts for key, counts in found.items() if counts.any()}


def counted(pipeline: Pipeline) -> dict[str, int]:
    found: Counter[str] = Counter()
    for join in pipeline.joins.values():
        found.update({what: c.total() for what, c in join.partition.counters.items()})
    return dict(found)


def results(pipeline: Pipeline) -> list[WindowResult]:
    """Everything, mature or not."""
    assert pipeline.matured is not None
    closed = {}
    for _ in range(100):
        found = pipeline.close([*pipeline.partitions, *pipeline.label_partitions])
        for result in found:
            if result.maturity:
                closed[result.segment, result.index, result.maturity] = result
        if pipeline.matured.settled():
            break
    for result in pipeline.matured.filling():
        closed[result.segment, result.index, result.maturity] = result
    return list(closed.values())


def chosen(
    pairs: list[tuple[Json, Json | None]], result: WindowResult
) -> list[tuple[Json, Json | None]]:
    channel = result.segment.partition("=")[2]
    return [
        (event, label)
        for event, label in pairs
        if result.start <= event["ts"] * 1e6 < result.end
        and channel in ("", event["features"]["channel"])
    ]


MATURITIES = {"10m": 600, "2h": 7_200, "30d": 30 * 86_400}


def test_what_came_equals_dictionaries_and_scikit_learn(setup: Any) -> None:
    found = results(run(setup, whole(STREAM)))
    pairs = effective(STREAM)
    assert len(found) == 3 * 3 * 3  # hours, parts, maturities
    for result in found:
        own = chosen(pairs, result)
        assert result.rows == len(own)
        labelled = [
            (event, label)
            for event, label in own
            if label is not None
            and label["ts"] * 1e6 - round(event["ts"] * 1e6) <= MATURITIES[result.maturity] * 1e6
        ]
        assert result.label_share == pytest.approx(len(labelled) / len(own), abs=1e-12)
        true = [label["label"] for _, label in labelled if label is not None]
        predicted = [event["prediction"] for event, _ in labelled]
        scores = [event["score"] for event, _ in labelled]
        values = {v.metric: v.value for v in result.values if v.family == REALIZED}
        cells = metrics.confusion_matrix(true, predicted, labels=[0, 1])
        ours = [values[f"{kind}"] for kind in ("true_negative", "false_positive", "false_negative",
                                               "true_positive")]  # fmt: skip
        assert ours == cells.ravel().tolist()
        for name, value in (
            ("accuracy", metrics.accuracy_score(true, predicted)),
            ("f1", metrics.f1_score(true, predicted)),
            ("precision", metrics.precision_score(true, predicted)),
            ("recall", metrics.recall_score(true, predicted)),
        ):
            assert values[name] == pytest.approx(value, abs=1e-9)
        # 1,000 cells of the reference's quantiles for a continuous score
        assert values["roc_auc"] == pytest.approx(metrics.roc_auc_score(true, scores), abs=2e-3)


def test_everything_that_becomes_of_labels_is_counted(setup: Any) -> None:
    told = counted(run(setup, whole(STREAM)))
    pairs = effective(STREAM)
    within = [p for p in pairs if p[1] is not None and p[1]["ts"] - p[0]["ts"] <= 30 * 86_400]
    assert told["labels_joined"] == len(within)
    assert told["predictions_repeated"] == len(STREAM.events) - len(
        {e["id"] for e in STREAM.events if e["id"]}
    ) - sum(e["id"] is None for e in STREAM.events)
    by_id: dict[str, list[int]] = {}
    for label in sorted(STREAM.labels, key=lambda x: x["ts"]):
        by_id.setdefault(label["id"], []).append(label["label"])
    twice = sum(len(some) - 1 for some in by_id.values())
    own = [e for e in STREAM.events if "label" in e and e["id"]]
    told_twice = told["labels_duplicate"] + told.get("labels_corrected", 0)
    known = {e["id"] for e in own}
    several = len(own) - len(known) + sum(name in known for name in by_id)
    assert told_twice + told.get("labels_outdated", 0) == twice + several
    assert "labels_without_prediction" not in told or not told["labels_without_prediction"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), events=st.integers(1, 8), labels=st.integers(1, 8))
def test_any_order_batching_partitioning_and_repetition_give_the_same_panes(
    setup: Any, seed: int, events: int, labels: int
) -> None:
    small = STREAM.events[:150]
    ids = {e["id"] for e in small}
    few = Stream(small, [x for x in STREAM.labels if x["id"] in ids])
    expected = panes(run(setup, whole(few)))
    rng = np.random.default_rng(seed)
    pieces: list[Piece] = []
    for kind, some, number in (("events", few.events, events), ("labels", few.labels, labels)):
        numbered = lines(some)
        parts = np.array_split(rng.permutation(len(numbered)), number)
        pieces += [(kind, f"{kind}:0", [numbered[i] for i in p.tolist()]) for p in parts]
    pieces = [pieces[i] for i in rng.permutation(len(pieces)).tolist()]
    # what comes again, as at-least-once delivery has it, changes nothing
    pieces += whole(few)
    found = panes(run(setup, iter(pieces)))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_rows_that_go_to_the_partition_of_their_key_and_come_twice_give_the_same(
    setup: Any,
) -> None:
    direct = run(setup, whole(STREAM))
    config, watched, windows = setup
    outcomes = watch_outcomes(config, watched, windows, "test")
    assert outcomes is not None
    sent: list[tuple[int, bytes]] = []
    pipeline = Pipeline(watched, windows, config, outcomes, lambda *record: sent.append(record))
    feeder = Feeder(config, watched, pipeline)
    feeder.feed(whole(STREAM))
    pipeline.tell(pipeline.marks([]))
    assert len({shard for shard, _ in sent}) == config.labels.join_partitions > 1
    for shard, payload in [*sent, *sent]:
        name = f"joins:{shard}"
        if name not in pipeline.joins:
            pipeline.joins[name] = outcomes.join(name)
        pipeline.joins[name].take(payload)
    expected, found = panes(direct), panes(pipeline)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    told, others = counted(direct), counted(pipeline)
    for what in ("labels_joined", "labels_beyond_horizon", "label_delay_sum"):
        assert told.get(what) == others.get(what)
    marks = {name: p.progress for name, p in pipeline.partitions.items()}
    assert all(join.marks["events:0"].progress == marks["events:0"]
               for join in pipeline.joins.values())  # fmt: skip


def test_a_record_that_is_none_of_ours_is_refused_and_one_of_another_model_is_counted(
    setup: Any,
) -> None:
    config, watched, windows = setup
    outcomes = watch_outcomes(config, watched, windows, "test")
    assert outcomes is not None
    join = outcomes.join("joins:0")
    for payload in (b"", b"{}", b"SMJ1x\0\0", b"SMJ1l\0\0odd"):
        with pytest.raises(StoreError):
            join.take(payload)
    sharded = Sharded({0: "another"}, 1, lambda _, payload: join.take(payload))
    sharded.predictions(0, np.zeros(3, dtype=LABEL))
    assert join.partition.counters["join_records_foreign"].total() == 1


def test_a_correction_takes_back_what_the_first_label_added(setup: Any) -> None:
    event = STREAM.events[0] | {"id": "x", "label": None}
    first = {"id": "x", "ts": event["ts"] + 60, "label": 1}
    second = {"id": "x", "ts": event["ts"] + 120, "label": 0}
    once = panes(run(setup, whole(Stream([event], [second]))))
    twice = run(setup, whole(Stream([event], [first, second])))
    back = run(setup, whole(Stream([event], [second, first])))
    for other in (twice, back):
        found = panes(other)
        assert found.keys() == once.keys()
        assert all(np.array_equal(found[key], once[key]) for key in once)
    assert counted(run(setup, iter([
        ("events", "e:0", lines([event])), ("labels", "l:0", lines([first])),
        ("labels", "l:0", [(7, lines([second])[0][1])]),
    ])))["labels_corrected"] == 1  # fmt: skip


def test_a_label_beyond_the_horizon_or_far_before_its_prediction_does_not_count(
    setup: Any,
) -> None:
    event = STREAM.events[0] | {"id": "x", "label": None}
    for shift in (30 * 86_400 + 1, -30 * 86_400 - 1):
        label = {"id": "x", "ts": event["ts"] + shift, "label": 1}
        pipeline = run(setup, whole(Stream([event], [label])))
        assert {k.model.rpartition("|")[2] for k in panes(pipeline)} == {PREDICTED}
        assert counted(pipeline)["labels_beyond_horizon"] == 1


def test_a_label_that_waits_is_counted_until_its_prediction_comes(setup: Any) -> None:
    event = STREAM.events[0] | {"id": "x", "label": None}
    label = {"id": "x", "ts": event["ts"] + 60, "label": 1}
    config, watched, windows = setup
    pipeline, _ = opened(config, watched, windows)
    feeder = Feeder(config, watched, pipeline)
    feeder.feed([("labels", "l:0", lines([label]))])
    assert counted(pipeline)["labels_without_prediction"] == 1
    feeder.feed([("events", "e:0", lines([event]))])
    assert counted(pipeline)["labels_without_prediction"] == 0
    assert counted(pipeline)["labels_joined"] == 1


def test_only_the_greatest_maturity_is_judged_unless_all_labels_are_in(tmp_path: Path) -> None:
    world = worlds.build(tmp_path, rows=3_000)
    config = world.config(labels=labels_config(maturities=["10m", "2h"]))
    watched, windows = watch(config, "test")
    events = [dict(e) for e in stream(720, 3, own=False).events]
    labels = []
    for i, event in enumerate(events):
        late = 3_000 if event["ts"] >= worlds.START + HOUR and i % 10 == 0 else 60
        labels.append({"id": event["id"], "ts": event["ts"] + late, "label": event["prediction"]})
    labels.append({"id": "later", "ts": worlds.START + 9 * HOUR, "label": 1})
    found = results(run((config, watched, windows), whole(Stream(events, labels))))
    judged = {
        (r.index, r.maturity): any(v.alert is not None for v in r.values if v.family == REALIZED)
        for r in found
    }
    assert judged == {(0, "10m"): True, (0, "2h"): True, (1, "10m"): False, (1, "2h"): True}


def test_windows_of_rows_are_those_of_the_input_order(tmp_path: Path) -> None:
    world = worlds.build(tmp_path, rows=3_000)
    rows = [{"name": "batch", "rows": 300}]
    labels = labels_config(max_predictions=10_000)
    config = world.config(windows=rows, labels=labels, limits={"memory": "64GiB"})
    watched, windows = watch(config, "test")
    found = results(run((config, watched, windows), whole(STREAM)))
    place = {id(event): i for i, event in enumerate(STREAM.events)}
    pairs = effective(STREAM)
    assert {r.index for r in found} == set(range(len(STREAM.events) // 300 + 1))
    for result in found:
        own = [(e, label) for e, label in pairs if place[id(e)] // 300 == result.index]
        assert result.rows == len(own)
        labelled = [
            (e, label)
            for e, label in own
            if label is not None and label["ts"] - e["ts"] <= MATURITIES[result.maturity]
        ]
        values = {v.metric: v.value for v in result.values if v.family == REALIZED}
        right = [label["label"] == e["prediction"] for e, label in labelled if label is not None]
        assert values["accuracy"] == pytest.approx(np.mean(right), abs=1e-9)


def test_what_changed_is_published_before_its_panes_end(
    setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mature, "_REVISED", 1)
    config, watched, windows = setup
    end = {"id": "nobody's", "model": "loans", "ts": worlds.START + 400 * 86_400, "label": 1}
    labels = sorted(STREAM.labels, key=lambda label: label["ts"])
    early = [label for label in labels if label["ts"] < worlds.START + 5 * HOUR]
    late = [*(label for label in labels if label["ts"] >= worlds.START + 5 * HOUR), end]

    def published(*parts: list[Json]) -> dict[Any, Any]:
        pipeline, _ = opened(config, watched, windows)
        feeder = Feeder(config, watched, pipeline)
        feeder.feed([("events", "events:0", lines(STREAM.events))])
        found, offset = {}, 0
        for part in parts:
            own = [(offset + i, orjson.dumps(label)) for i, label in enumerate(part)]
            feeder.feed([("labels", "labels:0", own)])
            offset += len(part)
            for _ in range(100):
                for r in pipeline.close([*pipeline.partitions]):
                    if r.maturity:
                        realized = [str(v) for v in r.values if v.family == REALIZED]
                        found[r.segment, r.index, r.maturity] = r.rows, r.label_share, realized
        return found

    at_once = published([*early, *late])
    assert len(at_once) == 3 * 3 * 3
    assert published(early, late) == at_once
