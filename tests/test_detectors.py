"""Sequential detectors: River's own detections, states that lose nothing, rates without drift."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import ValidationError
from river import drift
from river.drift import binary

from stream_monitor.detectors.checks import detector_problems, series_problems
from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.detectors.detector import Detector
from stream_monitor.detectors.fold import Fold
from stream_monitor.detectors.registry import METHODS, option_problems
from stream_monitor.errors import StoreError
from stream_monitor.methods.base import Definition, Measured
from stream_monitor.schema import BoolArray, FloatArray
from stream_monitor.values import REALIZED, STATISTICS

RIVER: dict[str, Any] = {
    "adwin": drift.ADWIN,
    "page_hinkley": drift.PageHinkley,
    "kswin": drift.KSWIN,
    "hddm_a": binary.HDDMA,
    "hddm_w": binary.HDDMW,
    "ddm": binary.DDM,
    "eddm": binary.EDDM,
}
PER_PANE = ("adwin", "page_hinkley", "kswin", "hddm_a", "hddm_w")
PER_EVENT = ("ddm", "eddm")
MEAN = Definition("mean", STATISTICS, -inf, inf, "Mean of a column.")


def config(method: str, **other: Any) -> DetectorConfig:
    series = "error" if method in PER_EVENT else "statistics/mean/age"
    return DetectorConfig.model_validate(
        {"name": method, "method": method, "series": series, **other}
    )


def mean_of(feature: str, value: float, expected: float = 0.0, spread: float = 1.0) -> Measured:
    return Measured(MEAN, "mean", feature, feature, value, 100, expected=expected, spread=spread)


def detections(detector: Any, values: Sequence[float] | FloatArray | BoolArray) -> list[int]:
    """Where one of River's own detectors finds drift."""
    found = []
    for i, value in enumerate(np.asarray(values, dtype=float).tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


def fed(detector: Detector, values: Sequence[float] | FloatArray) -> list[int]:
    values = np.asarray(values, dtype=float).tolist()
    return [i for i, value in enumerate(values) if detector.update(value, 0.0, 1.0)]


def shifting(n: int = 700, seed: int = 0) -> FloatArray:
    """A series in spreads of its expected value, with shifts up and down."""
    z = np.random.default_rng(seed).normal(size=n)
    z[n // 3 : 2 * n // 3] += 3.0
    return z


# --- River's numbers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "method"),
    [
        ("elec2_nswdemand", "adwin"),
        ("elec2_nswdemand", "page_hinkley"),
        ("elec2_nswdemand", "kswin"),
        ("elec2_transfer", "adwin"),
        ("elec2_transfer", "page_hinkley"),
        ("elec2_vicprice", "adwin"),
        ("synth_error_rate_.1_.3_.1", "adwin"),
        ("synth_error_rate_.1_.3_.1", "page_hinkley"),
    ],
)
def test_detections_on_real_series_are_rivers(shared_data: Path, series: str, method: str) -> None:
    if series.startswith("elec2"):
        name = series.removeprefix("elec2_")
        table = pyarrow.parquet.read_table(shared_data / "real_elec2_full.parquet", columns=[name])
        values = table[name].to_numpy()
    else:
        table = pyarrow.parquet.read_table(shared_data / "river_drift_synth_error.parquet")
        values = table["value"].to_numpy()
    with (shared_data / "river_drift_indices.csv").open(newline="") as file:
        (expected,) = [
            row
            for row in csv.DictReader(file)
            if row["series"] == series
            and row["detector"] == METHODS[method].name.rpartition(".")[2]
        ]
    rivers: dict[str, dict[str, Any]] = {
        "adwin": {"clock": 32},
        "page_hinkley": {"delta": 0.005, "threshold": 50.0},
        "kswin": {"alpha": 0.005, "seed": 42},
    }
    detector = Detector(config(method, scale="none", options=rivers[method]))
    found = fed(detector, values[: int(expected["n"])])
    assert found == [int(index) for index in expected["indices"].split()]
    assert detector.detections == int(expected["n_drifts"])


@pytest.mark.parametrize("method", PER_PANE)
def test_standardised_values_go_through_river(method: str) -> None:
    z = shifting()
    given_to_river = (np.clip(z, -1.5, 1.5) + 1.5) / 3 if method.startswith("hddm") else z
    own = METHODS[method].options
    expected = detections(RIVER[method](**own), given_to_river)
    detector = Detector(config(method))
    spread = 0.25
    found = [i for i, v in enumerate(z.tolist()) if detector.update(v * spread, 0.0, spread)]
    assert found == expected
    assert len(found) >= 2


@pytest.mark.parametrize("method", PER_EVENT)
def test_event_detectors_are_rivers_however_events_are_batched(method: str) -> None:
    rng = np.random.default_rng(5)
    errors = rng.random(3000) < np.repeat([0.1, 0.5, 0.05], 1000)
    expected = detections(RIVER[method](), errors)
    assert expected
    assert Detector(config(method)).feed_events(errors).tolist() == expected
    fold = Fold([config(method)])
    found = [d for part in np.array_split(errors, 41) for d in fold.feed_events(part)]
    assert [d.place for d in found] == expected
    assert [d.number for d in found] == list(range(1, len(expected) + 1))
    assert [d.value for d in found] == [float(errors[i]) for i in expected]
    assert fold.detectors[0].last == expected[-1]
    assert fold.feed_events(np.empty(0, dtype=bool)) == []


def test_every_option_is_an_argument_of_rivers_constructor() -> None:
    for name, method in METHODS.items():
        assert method.kind is RIVER[name]
        RIVER[name](**method.options)
        assert method.defaults.keys() <= method.options.keys()
        assert option_problems(name, method.options) == []


# --- states ----------------------------------------------------------------------------------


def again(detector: Detector) -> Detector:
    """A new detector that goes on from a state that was written as JSON and read."""
    new = Detector(detector.config)
    assert new.restore(orjson.loads(orjson.dumps(detector.state()))) is None
    return new


@pytest.mark.parametrize("scale", ["reference", "warm_up", "none"])
@pytest.mark.parametrize("method", PER_PANE)
def test_a_restart_after_every_value_changes_nothing(method: str, scale: str) -> None:
    values = shifting(400)
    if scale == "none" and method.startswith("hddm"):
        values = np.clip(values / 6 + 0.3, 0, 1)
    whole = Detector(config(method, scale=scale))
    parts = Detector(config(method, scale=scale))
    for value in values.tolist():
        assert parts.update(value, 0.0, 1.0) == whole.update(value, 0.0, 1.0)
        parts = again(parts)
    assert parts.state() == whole.state()
    assert whole.detections


@pytest.mark.parametrize("method", PER_EVENT)
def test_a_restart_after_every_event_changes_nothing(method: str) -> None:
    errors = np.random.default_rng(2).random(900) < np.repeat([0.1, 0.6, 0.1], 300)
    whole, parts = Detector(config(method)), Detector(config(method))
    expected = whole.feed_events(errors).tolist()
    found = []
    for i in range(len(errors)):
        found += [i] * len(parts.feed_events(errors[i : i + 1]))
        parts = again(parts)
    assert found == expected
    assert expected
    assert parts.state() == whole.state()


values_that_come = st.lists(
    st.floats(-5, 5) | st.sampled_from([nan, inf, -inf, 0.0, 1.0, 1e300]), max_size=150
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PER_PANE),
    st.sampled_from(["reference", "warm_up", "none"]),
    values_that_come,
    st.integers(0, 150),
)
def test_whatever_comes_a_restored_detector_goes_on_alike(
    method: str, scale: str, values: list[float], cut: int
) -> None:
    small = {"window_size": 20, "stat_size": 8} if method == "kswin" else {}
    chosen = config(method, scale=scale, warm_up=10, options=small)
    whole = Detector(chosen)
    expected = fed(whole, values)
    parts = Detector(chosen)
    found = fed(parts, values[:cut])
    parts = again(parts)
    found += [min(cut, len(values)) + i for i in fed(parts, values[cut:])]
    assert found == expected
    assert parts.state() == whole.state()
    assert whole.seen + whole.skipped + whole.learned == len(values)
    assert whole.skipped >= sum(not isfinite(v) for v in values)


@pytest.mark.parametrize("method", [*PER_PANE, *PER_EVENT])
def test_the_state_is_bounded(method: str) -> None:
    detector = Detector(config(method))
    rng = np.random.default_rng(0)
    count = 500 if method == "kswin" else 100_000 if method == "adwin" else 20_000
    if method in PER_EVENT:
        detector.feed_events(rng.random(count) < 0.1)
    else:
        fed(detector, rng.normal(size=count))
    assert again(detector).state() == detector.state()
    bound = {"hddm_w": 2_000, "kswin": 8_000 + 25 * 100, "adwin": 200 + 24 * 8 * 16}
    assert len(orjson.dumps(detector.state()["detector"])) < bound.get(method, 1_000)


def test_a_changed_configuration_or_river_begins_anew_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Detector(config("adwin"))
    fed(old, shifting())
    new = Detector(config("adwin", options={"delta": 0.01}))
    assert new.restore(old.state()) == "its configuration has changed"
    assert (new.seen, new.detections) == (0, 0)
    state = old.state()
    monkeypatch.setattr("stream_monitor.detectors.detector.version", lambda _: "9.0")
    reason = Detector(config("adwin")).restore(state)
    assert reason is not None
    assert "installed is 9.0" in reason


def test_a_damaged_state_is_refused() -> None:
    detector = Detector(config("adwin"))
    fed(detector, shifting())
    state = detector.state()
    for damaged in ({}, {**state, "detector": {}}, {**state, "counters": [0] * 5}):
        with pytest.raises(StoreError, match="detector adwin is damaged; give it another name"):
            Detector(config("adwin")).restore(damaged)


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PER_PANE)
def test_what_cannot_be_used_is_left_out_and_counted(method: str) -> None:
    z = shifting()
    holes: list[tuple[float, float, float]] = [
        (nan, 0, 1), (inf, 0, 1), (-inf, 0, 1), (1.0, nan, 1), (1.0, 0, nan), (1.0, 0, 0.0),
        (1.0, 0, -1.0), (1.0, inf, 1),
    ]  # fmt: skip
    clean, holed = Detector(config(method)), Detector(config(method))
    expected = fed(clean, z)
    found = []
    for i, value in enumerate(z.tolist()):
        assert not holed.update(*holes[i % len(holes)])
        if holed.update(value, 0.0, 1.0):
            found.append(i)
    assert found == expected
    assert (holed.seen, holed.skipped) == (len(z), len(z))


@pytest.mark.parametrize("method", PER_PANE)
@pytest.mark.parametrize("scale", ["reference", "warm_up", "none"])
def test_a_constant_series_never_drifts(method: str, scale: str) -> None:
    detector = Detector(config(method, scale=scale))
    assert fed(detector, np.full(500, 0.25)) == []
    assert detector.seen == (0 if scale == "warm_up" else 500)


@pytest.mark.parametrize("method", PER_PANE)
def test_extreme_values_neither_raise_nor_blind(method: str) -> None:
    detector = Detector(config(method))
    z = np.random.default_rng(8).normal(size=1200)
    z[[3, 200, 201]] = [1e300, -1e300, 1e308]
    z[900:] += 4.0
    found = fed(detector, z)
    assert [i for i in found if 900 <= i < 1000]


def test_hddm_takes_values_as_they_are_only_from_its_range() -> None:
    detector = Detector(config("hddm_a", scale="none"))
    shares = np.concatenate([np.full(300, 0.1), [1.5, -0.5, nan], np.full(300, 0.6)])
    assert fed(detector, shares) == [i + 3 if i >= 300 else i for i in detections(
        RIVER["hddm_a"](two_sided_test=True), shares[(shares >= 0) & (shares <= 1)]
    )]  # fmt: skip
    assert detector.skipped == 3
    assert detector.detections == 1


def test_a_warm_up_learns_mean_and_standard_deviation() -> None:
    values = 1e6 + 50 * shifting(600, seed=3)
    detector = Detector(config("adwin", scale="warm_up", warm_up=60))
    mean, std = values[:60].mean(), values[:60].std(ddof=1)
    expected = detections(RIVER["adwin"](clock=1), (values[60:] - mean) / std)
    assert fed(detector, values) == [60 + i for i in expected]
    assert (detector.learned, detector.seen) == (60, 540)
    # where nothing has moved there is no scale yet
    still = Detector(config("adwin", scale="warm_up", warm_up=10))
    fed(still, [2.0] * 30 + [3.0, 2.0])
    assert (still.learned, still.seen) == (31, 1)


# rates on standardised normal panes; docs/methods.md has them for more worlds
@pytest.mark.parametrize(
    ("method", "delay"), [("adwin", 15), ("page_hinkley", 12), ("hddm_a", 90), ("hddm_w", 40)]
)
def test_defaults_are_quiet_without_drift_and_find_a_shift_of_three_spreads(
    method: str, delay: int
) -> None:
    rng = np.random.default_rng(11)
    assert sum(len(fed(Detector(config(method)), rng.normal(size=1000))) for _ in range(20)) <= 1
    for sign in (-1, 1):
        z = rng.normal(size=600)
        z[500:] += 3 * sign
        found = fed(Detector(config(method)), z)
        assert [i for i in found if 500 <= i < 500 + delay]


# --- folding ---------------------------------------------------------------------------------


def test_a_fold_feeds_each_detector_its_series() -> None:
    z = shifting()
    fold = Fold([config("adwin"), config("page_hinkley", series="statistics/mean/a/b")])
    found = []
    for i, value in enumerate(z.tolist()):
        found += fold.feed(10 + 3 * i, [mean_of("a/b", -value), mean_of("age", value)])
    by_adwin = [d for d in found if d.detector.method == "adwin"]
    expected = fed(Detector(config("adwin")), z)
    assert [d.place for d in by_adwin] == [10 + 3 * i for i in expected]
    assert [d.value for d in by_adwin] == [z[i] for i in expected]
    assert [d.number for d in by_adwin] == list(range(1, len(expected) + 1))
    adwin, page_hinkley = fold.detectors
    assert adwin.last == by_adwin[-1].place
    expected = fed(Detector(config("page_hinkley")), -z)
    assert [d.place for d in found if d not in by_adwin] == [10 + 3 * i for i in expected]
    assert page_hinkley.seen == len(z)


def test_a_pane_is_fed_once_and_in_order() -> None:
    fold = Fold([config("adwin")])
    fold.feed(5, [mean_of("age", 1.0)])
    for pane in (5, 4):
        with pytest.raises(ValueError, match=f"pane {pane} after pane 5"):
            fold.feed(pane, [mean_of("age", 1.0)])
    restored = Fold([config("adwin")])
    assert restored.restore(fold.state()) == {}
    with pytest.raises(ValueError, match="pane 5 after pane 5"):
        restored.feed(5, [])


def test_a_pane_without_the_series_counts_as_skipped() -> None:
    fold = Fold([config("adwin")])
    assert fold.feed(1, []) == []
    assert fold.feed(2, [mean_of("other", 1.0)]) == []
    assert fold.feed(3, [mean_of("age", nan)]) == []
    (detector,) = fold.detectors
    assert (detector.seen, detector.skipped) == (0, 3)


def test_a_fold_restored_at_any_pane_goes_on_alike() -> None:
    methods = [config(m) for m in PER_PANE] + [config(m) for m in PER_EVENT]
    z = shifting(300)
    whole, parts = Fold(methods), Fold(methods)
    for i, value in enumerate(z.tolist()):
        errors = z[: i % 7] > 1
        pane = [mean_of("age", value)]
        expected = whole.feed(i, pane) + whole.feed_events(errors)
        assert parts.feed(i, pane) + parts.feed_events(errors) == expected
        state = orjson.loads(orjson.dumps(parts.state()))
        parts = Fold(methods)
        assert parts.restore(state) == {}
    assert parts.state() == whole.state()


def test_a_fold_follows_a_changed_configuration() -> None:
    old = Fold([config("adwin"), config("kswin")])
    for i, value in enumerate(shifting(100).tolist()):
        old.feed(i, [mean_of("age", value)])
    new = Fold([config("adwin"), config("kswin", series="statistics/mean/b"), config("hddm_a")])
    assert new.restore(old.state()) == {"kswin": "its configuration has changed"}
    assert [d.seen for d in new.detectors] == [100, 0, 0]


def test_a_model_has_its_own_detectors() -> None:
    everywhere, own = config("adwin"), config("kswin", model="a")
    assert [d.config for d in Fold.of([everywhere, own], "a").detectors] == [everywhere, own]
    assert [d.config for d in Fold.of([everywhere, own], "b").detectors] == [everywhere]


# --- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"series": "error"},
        {"series": "mean"},
        {"series": "statistics/"},
        {"series": "/mean"},
        {"scale": "minmax"},
        {"options": {"delta": [1]}},
        {"name": "a b"},
        {"warm_up": 1},
        {"option": 1},
    ],
)
def test_a_wrong_section_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config("adwin", **wrong)
    for method in ("cusum", "ddm"):  # ddm, but not of errors
        with pytest.raises(ValidationError):
            DetectorConfig.model_validate(
                {"name": "a", "method": method, "series": "statistics/mean"}
            )


def test_a_series_is_family_metric_and_feature() -> None:
    assert config("adwin").key == ("statistics", "mean", "age")
    assert config("adwin", series="realized_performance/mae").key == (REALIZED, "mae", "")
    assert config("adwin", series="drift/psi/a/b").key == ("drift", "psi", "a/b")


@pytest.mark.parametrize(
    ("method", "options", "key", "remedy"),
    [
        ("adwin", {"threshold": 3}, "threshold", "adwin has the options delta (default 0.002)"),
        ("adwin", {"delta": 1.0}, "delta", "between 0 and 1, not 0 or 1"),
        ("adwin", {"clock": 0}, "clock", "whole number of at most 1e+06, at least 1"),
        ("adwin", {"clock": 1.5}, "clock", "whole number"),
        ("adwin", {"clock": True}, "clock", "whole number"),
        ("adwin", {"delta": "high"}, "delta", "between 0 and 1"),
        ("adwin", {"delta": nan}, "delta", "between 0 and 1"),
        ("page_hinkley", {"mode": "left"}, "mode", "choose from up, down, both"),
        ("page_hinkley", {"threshold": 0}, "threshold", "number above 0"),
        ("page_hinkley", {"delta": -1}, "delta", "at least 0"),
        ("kswin", {"window": [1.0]}, "window", "kswin has the options alpha"),
        ("kswin", {"seed": None}, "seed", "whole number"),
        ("kswin", {"stat_size": 60}, "window_size", "at least twice stat_size"),
        ("hddm_a", {"two_sided_test": 1}, "two_sided_test", "write true or false"),
        ("eddm", {"alpha": 0.8}, "alpha", "must not be less than beta, 0.9"),
    ],
)
def test_wrong_options_are_named_with_their_remedy(
    method: str, options: dict[str, Any], key: str, remedy: str
) -> None:
    (problem,) = option_problems(method, options)
    assert problem[0] == key
    assert remedy in problem[2]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_options_that_pass_the_check_work(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([*PER_PANE, *PER_EVENT]))
    options: dict[str, Any] = {}
    for name, (low, high) in METHODS[method].ranges.items():
        default = METHODS[method].options[name]
        if isinstance(default, bool):
            options[name] = data.draw(st.booleans())
        elif isinstance(default, int):
            options[name] = data.draw(st.integers(int(low), min(int(high), 40)))
        else:
            options[name] = data.draw(st.floats(low, high))
    if option_problems(method, options):
        return
    detector = Detector(config(method, options=options))
    values = np.random.default_rng(0).normal(size=90)
    if method in PER_EVENT:
        detector.feed_events(values > 0.5)
    else:
        fed(detector, values)
    assert detector.seen == 90
    assert again(detector).state() == detector.state()


def test_events_one_by_one_need_one_order() -> None:
    detectors = [config("adwin"), config("ddm"), config("eddm", model="b")]
    assert detector_problems(detectors, models=["a", "b"], ordered=True, late=False) == []
    problems = detector_problems(detectors, models=["a"], ordered=False, late=False)
    assert [p.key for p in problems] == [
        "detectors[1].method", "detectors[2].model", "detectors[2].method",
    ]  # fmt: skip
    assert "events of several partitions have no order" in problems[0].remedy
    assert problems[1].remedy == "choose from a"


def test_events_one_by_one_need_their_labels_with_them() -> None:
    detectors = [config("adwin"), config("ddm")]
    (problem,) = detector_problems(detectors, models=["a"], ordered=True, late=True)
    assert problem.key == "detectors[1].method"
    assert "with a `labels` section" in problem.remedy


def test_names_and_options_are_checked_together() -> None:
    detectors = [config("adwin"), replaced(config("kswin", options={"alpha": 2}), "adwin")]
    problems = detector_problems(detectors, models=["a"], ordered=True, late=False)
    assert [p.key for p in problems] == ["detectors[1].name", "detectors[1].options.alpha"]


def replaced(detector: DetectorConfig, name: str) -> DetectorConfig:
    return detector.model_copy(update={"name": name})


def test_a_series_that_a_model_lacks_is_named_with_those_it_has() -> None:
    measured = [mean_of("age", nan), mean_of("b", nan), replace(mean_of("", nan), metric="rows")]
    wanted = ["statistics/mean/age", "statistics/mean/x", "statistics/std/x", "drift/psi/x",
              "statistics/mean"]  # fmt: skip
    detectors = [config("adwin", series=series) for series in wanted]
    detectors += [config("ddm"), config("adwin", model="other", series="drift/psi")]
    problems = series_problems(dict(enumerate(detectors)), "a", measured, errors=True)
    assert [(p.key, p.remedy) for p in problems] == [
        ("detectors[1].series", "model a has in statistics/mean only age, b"),
        ("detectors[2].series", "model a has in statistics only mean, rows"),
        ("detectors[3].series", "model a has only statistics"),
        ("detectors[4].series", "model a has in statistics/mean only age, b"),
    ]
    assert series_problems({0: detectors[0]}, "a", measured, errors=False) == []
    (problem,) = series_problems({0: config("ddm")}, "a", measured, errors=False)
    assert problem.remedy == "model a has no classes as prediction and target in its reference"
