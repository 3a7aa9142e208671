"""A drop and its causes: worlds whose truth is known, scikit-learn and brute force beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from scipy.spatial.distance import jensenshannon
from sklearn import metrics

from stream_monitor.alerts.calibration import sidak
from stream_monitor.alerts.rates import spread_limit
from stream_monitor.batch import ColumnBatch, empty_wrong
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Block, Measured, Study
from stream_monitor.methods.outcomes.base import OUTCOMES, Outcome
from stream_monitor.methods.outcomes.selection import distance, homogeneity
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.schema import Column, FloatArray, IntArray, Kind, Role, Schema
from stream_monitor.values import CONCEPT_DRIFT, CONCEPT_EFFECT, COVARIATE_EFFECT, LABELS
from tests.building import cells_of

SCHEMA = Schema((
    Column("prediction", Kind.CATEGORICAL, Role.PREDICTION),
    Column("score", Kind.CONTINUOUS, Role.SCORE),
    Column("target", Kind.CATEGORICAL, Role.TARGET),
))  # fmt: skip
ROWS, REFERENCE = 5_000, 50_000
WEIGHTS = np.array([4.3, -2.9, 2.2, 0.0])
BIAS = -0.6
DROP = 0.03
RATE = 0.015  # of false alarms, a family


@dataclass(frozen=True)
class Change:
    """How far inputs have moved towards the boundary, and what they mean now."""

    shift: float = 0.0
    concept: float = 0.0

    def weights(self) -> FloatArray:
        """The first feature has come to say less, and one that said nothing says something."""
        found = WEIGHTS.copy()
        found[0] *= 1 - self.concept
        found[3] = 2 * self.concept
        return found


def inputs(random: np.random.Generator, rows: int, change: Change) -> FloatArray:
    found = random.normal(size=(rows, 4))
    found[:, :3] *= 1 - change.shift
    return found


def scored(x: FloatArray) -> FloatArray:
    """The model's score, which is not calibrated."""
    return np.asarray(special.expit(1.3 * (x @ WEIGHTS + BIAS) - 0.1))


def drawn(seed: int, rows: int, change: Change) -> tuple[FloatArray, IntArray]:
    random = np.random.default_rng(seed)
    x = inputs(random, rows, change)
    chance = special.expit(x @ change.weights() + BIAS)
    return scored(x), (random.random(rows) < chance).astype(np.int64)


def accuracies(change: Change) -> tuple[float, float]:
    """Of these inputs by Monte Carlo: as if they meant what they did, and as they do now."""
    x = inputs(np.random.default_rng(5), 400_000, change)
    right = scored(x) > 0.5
    found = [special.expit(x @ w + BIAS) for w in (WEIGHTS, change.weights())]
    before, now = (float(np.where(right, p, 1 - p).mean()) for p in found)
    return before, now


def worlds() -> dict[str, Change]:
    """Accuracy down by DROP: for three reasons, and not at all."""
    base = accuracies(Change())[0]

    def shift(drop: float) -> float:
        def away(s: float) -> float:
            return accuracies(Change(s))[0] - base + drop

        return float(optimize.brentq(away, 0, 0.9, xtol=1e-3))

    def concept(shift: float) -> float:
        def away(c: float) -> float:
            return accuracies(Change(shift, c))[1] - base + DROP

        return float(optimize.brentq(away, 0, 1, xtol=1e-3))

    half = shift(DROP / 2)
    return {
        "none": Change(),
        "covariate": Change(shift(DROP)),
        "concept": Change(0.0, concept(0.0)),
        "both": Change(half, concept(half)),
    }


def batch(score: FloatArray, label: IntArray) -> ColumnBatch:
    codes = np.stack([score > 0.5, label]).astype(np.int32)
    n = len(score)
    time = np.zeros(n, dtype=np.int64)
    return ColumnBatch(time, time, score[None], codes, empty_wrong(), np.arange(n))


class Model:
    """A reference of so many labelled rows, and what windows say beside it."""

    def __init__(self, score: FloatArray, label: IntArray) -> None:
        found = batch(score, label)
        self.cells = {
            "prediction": cells_of((score > 0.5).astype(int), Kind.CATEGORICAL, name="prediction",
                                   role=Role.PREDICTION),
            "score": cells_of(score, name="score", role=Role.SCORE),
            "target": cells_of(label, Kind.CATEGORICAL, name="target", role=Role.TARGET),
        }  # fmt: skip
        study = Study(SCHEMA, self.cells)
        self.blocks: dict[str, Block] = {}
        for name in ("cbpe", "realized_performance"):
            learner = REGISTRY.block[name].learner(study)
            assert learner is not None
            learner.update(found)
            arrays = learner.finish(found)
            self.blocks[name] = REGISTRY.block[name].load(SCHEMA, self.cells, arrays)
        sizes = {name: block.size for name, block in self.blocks.items()}
        self.layout = Layout.of({"target": self.cells["target"]}, sizes)
        reference = self.count(found)
        bound = (method.bind(self.blocks, reference) for method in OUTCOMES.values())
        self.measures = [measure for measure in bound if measure is not None]

    def count(self, rows: ColumnBatch) -> Counted:
        vector = np.zeros(self.layout.size, dtype=np.int64)
        vector[0] = len(rows)
        group = np.zeros(len(rows), dtype=np.int64)
        for name, block in self.blocks.items():
            vector[self.layout.blocks[name]] = block.addends(rows).counts(group, 1)[0]
        return Counted(self.layout, vector)

    def measure(
        self, score: FloatArray, label: IntArray, labelled: IntArray | None = None
    ) -> dict[tuple[str, str], Measured]:
        rows = batch(score, label)
        every = self.count(rows)
        some = every if labelled is None else self.count(rows.take(labelled))
        outcome = Outcome(every, some)
        found = [m for measure in self.measures for m in measure.measure(outcome)]
        return {(m.family, m.metric): m for m in found}


def alerts(found: dict[tuple[str, str], Measured]) -> set[str]:
    """The families of which some value is an alert, each judged with RATE."""
    families: dict[str, list[Measured]] = {}
    for m in found.values():
        if m.spread > 0:
            families.setdefault(m.family, []).append(m)
    return {
        family
        for family, some in families.items()
        if any(spread_limit(m, sidak(RATE, len(some))).alert(m.value) for m in some)
    }


def named(found: dict[tuple[str, str], Measured]) -> str:
    said = alerts(found)
    covariate = COVARIATE_EFFECT in said
    concept = bool({CONCEPT_DRIFT, CONCEPT_EFFECT} & said)
    return {(True, True): "both", (True, False): "covariate", (False, True): "concept"}.get(
        (covariate, concept), "none"
    )


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return [Model(*drawn(seed, REFERENCE, Change())) for seed in range(10)]


def test_the_right_cause_of_a_drop_of_three_points_is_named(
    models: list[Model], capsys: pytest.CaptureFixture[str]
) -> None:
    base = accuracies(Change())[0]
    table = []
    for name, change in worlds().items():
        before, now = accuracies(change)
        truth = before - base, now - before
        said, within = [], 0
        for seed in range(100):
            score, label = drawn(1_000 + seed, ROWS, change)
            found = models[seed % len(models)].measure(score, label)
            parts = [found[f, "accuracy"] for f in (COVARIATE_EFFECT, CONCEPT_EFFECT)]
            within += all(
                abs(m.value - true) <= 3 * m.sampling_error
                for m, true in zip(parts, truth, strict=True)
            )
            said.append(named(found))
        right = said.count(name)
        counts = {cause: said.count(cause) for cause in ("none", "covariate", "concept", "both")}
        table.append(f"{name:10} {truth[0]:+.4f} {truth[1]:+.4f}  named {counts}  within {within}")
        assert right >= 95, table
        assert within >= 95, table
    with capsys.disabled():
        print("\n" + "\n".join(table))


def test_a_group_that_was_always_miscalibrated_is_taken_for_concept_drift() -> None:
    """The limit: nothing in the world has changed but how many come from that group."""

    def mixture(seed: int, rows: int, part: float) -> tuple[FloatArray, IntArray]:
        random = np.random.default_rng(seed)
        x = inputs(random, rows, Change())
        group = random.random(rows) < part
        logit = (x @ WEIGHTS + BIAS) * np.where(group, 0.3, 1.0)
        return scored(x), (random.random(rows) < special.expit(logit)).astype(np.int64)

    model = Model(*mixture(0, REFERENCE, 0.05))
    assert named(model.measure(*mixture(1, ROWS, 0.05))) == "none"
    found = model.measure(*mixture(2, ROWS, 0.5))
    assert named(found) == "concept"
    # the scores look as they did, so all of the drop counts as the world's
    assert found[CONCEPT_EFFECT, "accuracy"].value < -0.03


def test_effects_add_up_to_realized_less_reference(models: list[Model]) -> None:
    score, label = drawn(7, ROWS, worlds()["both"])
    found = models[0].measure(score, label)
    reference = drawn(0, REFERENCE, Change())
    predicted = [score > 0.5, reference[0] > 0.5]
    for metric, value in (
        ("accuracy", metrics.accuracy_score),
        ("f1", metrics.f1_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
    ):
        now, then = value(label, predicted[0]), value(reference[1], predicted[1])
        total = found[COVARIATE_EFFECT, metric].value + found[CONCEPT_EFFECT, metric].value
        # isotonic regression keeps the mean of the labels, not each rate, to the last digit
        assert total == pytest.approx(now - then, abs=2e-3)
    total = found[COVARIATE_EFFECT, "roc_auc"].value + found[CONCEPT_EFFECT, "roc_auc"].value
    now = metrics.roc_auc_score(label, score)
    assert total == pytest.approx(now - metrics.roc_auc_score(reference[1], reference[0]), abs=2e-3)


def test_labels_that_are_missing_by_the_score_are_seen_and_do_not_bend_the_concept_effect(
    models: list[Model],
) -> None:
    values, warned = [], 0
    for seed in range(20):
        score, label = drawn(300 + seed, ROWS, Change())
        random = np.random.default_rng(seed)
        kept = np.flatnonzero(random.random(ROWS) < np.where(score > 0.5, 0.2, 0.9))
        found = models[seed % len(models)].measure(score, label, kept)
        effect = found[CONCEPT_EFFECT, "accuracy"]
        values.append(effect.value / effect.sampling_error)
        warned += LABELS in alerts(found)
        assert found[LABELS, "share"].value == pytest.approx(len(kept) / ROWS)
    assert warned == 20
    assert np.abs(np.mean(values)) < 4 / np.sqrt(20)
    assert 0.5 < np.std(values) < 1.6


def test_labels_that_are_missing_at_random_are_no_selection(models: list[Model]) -> None:
    warned = 0
    for seed in range(60):
        score, label = drawn(500 + seed, ROWS, Change())
        kept = np.flatnonzero(np.random.default_rng(seed).random(ROWS) < 0.8)
        warned += LABELS in alerts(models[seed % len(models)].measure(score, label, kept))
    assert warned <= 4  # of 60 at 1.5 %: more has a probability of 0.2 %


def test_statistics_are_chi_squared_over_their_freedom_without_change(models: list[Model]) -> None:
    trend, omnibus = [], []
    for seed in range(200):
        found = models[seed % len(models)].measure(*drawn(7_000 + seed, 1_000, Change()))
        trend.append(found[CONCEPT_DRIFT, "calibration_trend"])
        omnibus.append(found[CONCEPT_DRIFT, "calibration_drift"])
    for some in (trend, omnibus):
        freedom = [2 / m.spread**2 for m in some]
        p = [stats.chi2.sf(m.value * k, k) for m, k in zip(some, freedom, strict=True)]
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_without_labels_there_is_nothing_to_say(models: list[Model]) -> None:
    score, label = drawn(1, 500, Change())
    found = models[0].measure(score, label, np.empty(0, dtype=np.int64))
    for key, m in found.items():
        if key[0] in (CONCEPT_EFFECT, CONCEPT_DRIFT) or key[1].startswith("selection"):
            assert np.isnan(m.value), key
    assert found[LABELS, "share"].value == 0
    assert not {CONCEPT_DRIFT, CONCEPT_EFFECT, LABELS} & alerts(found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=20, max_size=20))
def test_selection_equals_scipy(table: list[tuple[int, int]]) -> None:
    counts = np.array(table, dtype=np.float64).T
    if counts.sum(axis=1).all():
        wanted = jensenshannon(*(counts / counts.sum(axis=1, keepdims=True)), base=2)
        assert distance(counts) == pytest.approx(float(np.nan_to_num(wanted)), abs=1e-7)
    value, freedom = homogeneity(counts)
    part = counts.sum(axis=1) / max(counts.sum(), 1)
    if counts.sum() and (counts.sum(axis=0) * part.min() >= 5).all():
        expected = stats.chi2_contingency(counts, correction=False)
        assert freedom == expected.dof
        assert value * freedom == pytest.approx(expected.statistic, rel=1e-9)


def test_values_are_the_same_whatever_the_windows_order(models: list[Model]) -> None:
    score, label = drawn(3, 800, Change(0.1, 0.1))
    order: Any = np.random.default_rng(1).permutation(800)
    one, other = models[0].measure(score, label), models[0].measure(score[order], label[order])
    assert {k: (m.value, m.spread) for k, m in one.items() if m.value == m.value} == {
        k: (m.value, m.spread) for k, m in other.items() if m.value == m.value
    }
