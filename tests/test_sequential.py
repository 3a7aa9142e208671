"""The sequential test of the estimate: its rate, its power, its state."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import optimize

from stream_monitor.methods.sequential.estimate import EstimateTest
from stream_monitor.methods.sequential.evidence import Evidence, half_width
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray
from stream_monitor.values import Value
from tests.test_effects import Change, Model, accuracies, batch, drawn

RATE = 1e-3
ROWS = 500  # of a pane
PANES = 40


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return [Model(*drawn(50 + seed, 20_000, Change())) for seed in range(8)]


@pytest.fixture(scope="module")
def broken() -> Change:
    """Accuracy down by three points, the inputs as they were."""
    base = accuracies(Change())[0]

    def away(concept: float) -> float:
        return accuracies(Change(0.0, concept))[1] - base + 0.03

    return Change(0.0, float(optimize.brentq(away, 0, 1, xtol=1e-3)))


def made(model: Model, rate: float = RATE) -> EstimateTest:
    score, label = drawn(50, 20_000, Change())
    found = EstimateTest.of(model.blocks, model.count(batch(score, label)), rate=rate)
    assert found is not None
    return found


def pane(model: Model, score: FloatArray, label: IntArray) -> Counted:
    return model.count(batch(score, label))


def evidence(test: EstimateTest) -> Value:
    return test.values()[-1]


def negatives_first(label: IntArray, random: np.random.Generator) -> FloatArray:
    """Delays in panes: most negatives within the first, positives after three of them."""
    return np.where(label == 0, random.exponential(0.3, len(label)),
                    1 + random.exponential(2.0, len(label)))  # fmt: skip


def test_two_hundred_streams_without_drift_alarm_at_most_at_the_stated_rate(
    models: list[Model], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fed at a maturity by which both kinds of labels have come; a naive test is not."""
    alarms = naive = 0
    for stream in range(200):
        model = models[stream % len(models)]
        patient, hasty = made(model), made(model)
        random = np.random.default_rng(stream)
        said = hasty_said = False
        for number in range(PANES):
            score, label = drawn(10_000 + stream * PANES + number, ROWS, Change())
            delay = negatives_first(label, random)
            # 3 % never come, others hardly where the score is high: at random given the score
            comes = random.random(ROWS) < np.where(score > 0.8, 0.4, 0.97)
            ripe = comes & (delay <= 20)
            patient.feed(number, pane(model, score[ripe], label[ripe]))
            said |= bool(evidence(patient).alert)
            if not hasty_said and number < 12:
                early = delay <= 1
                hasty.feed(number, pane(model, score[early], label[early]))
                hasty_said |= bool(evidence(hasty).alert)
        alarms += said
        naive += hasty_said
    with capsys.disabled():
        print(f"\n{alarms} of 200 streams of {PANES} panes alarm, {RATE * PANES:.0%} are allowed; "
              f"{naive} where labels count as they come")  # fmt: skip
    assert alarms <= 200 * RATE * PANES
    assert naive >= 195


def delay(model: Model, broken: Change, good: int, seed: int) -> int:
    """Panes until the change is found, after so many good ones."""
    test = made(model)
    for number in range(good + 100):
        change = Change() if number < good else broken
        test.feed(number, pane(model, *drawn(seed + number, ROWS, change)))
        if evidence(test).alert:
            return number - good + 1
    return 100


def test_a_changed_world_is_found_as_soon_after_a_long_good_life_as_after_a_short_one(
    models: list[Model], broken: Change
) -> None:
    early = [delay(models[i], broken, 5, 70_000 + i * 1_000) for i in range(6)]
    late = [delay(models[i], broken, 200, 80_000 + i * 1_000) for i in range(6)]
    # three points of accuracy within some 12,000 labels
    assert max(early + late) * ROWS <= 12_000, (early, late)
    assert abs(np.mean(early) - np.mean(late)) <= 4, (early, late)


def test_after_a_change_that_goes_away_the_estimate_is_trusted_again(
    models: list[Model], broken: Change
) -> None:
    test = made(models[0])
    for number in range(40):
        test.feed(number, pane(models[0], *drawn(60_000 + number, ROWS, broken)))
    values = {v.metric: v for v in test.values()}
    assert values["evidence"].alert
    gap = values["accuracy_gap"]
    assert gap.value == pytest.approx(-0.03, abs=0.01)
    assert gap.lower_confidence < -0.03 < gap.upper_confidence < 0
    for number in range(40, 80):
        test.feed(number, pane(models[0], *drawn(60_000 + number, ROWS, Change())))
    assert evidence(test).alert is False


def test_a_restart_goes_on_with_the_same_bits(models: list[Model]) -> None:
    whole, parts = made(models[0]), made(models[0])
    for number in range(20):
        counts = pane(models[0], *drawn(number, 200, Change(0.1, 0.1)))
        whole.feed(number, counts)
        parts.feed(number, counts)
        again = made(models[0])
        assert again.restore(msgspec.json.decode(msgspec.json.encode(parts.state()))) is None
        parts = again
    assert repr(parts.values()) == repr(whole.values())
    assert parts.pane == whole.pane == 19
    with pytest.raises(ValueError, match="once, in order"):
        parts.feed(19, pane(models[0], *drawn(1, 10, Change())))
    assert "another" in str(made(models[1], rate=0.5).restore(whole.state()))


def test_panes_without_labels_change_nothing(models: list[Model]) -> None:
    test, other = made(models[0]), made(models[0])
    assert evidence(test).alert is None
    none: Any = np.empty(0)
    for number in range(6):
        counts = pane(models[0], *drawn(number, 300, Change()))
        test.feed(2 * number, counts)
        test.feed(2 * number + 1, pane(models[0], none, none.astype(np.int64)))
        other.feed(number, counts)
    assert repr(test.values()) == repr(other.values())


def test_residuals_are_those_of_the_rows(models: list[Model]) -> None:
    model = models[0]
    score, label = drawn(5, 4_000, Change(0.1, 0.2))
    test = made(model)
    test.feed(0, pane(model, score, label))
    block: Any = model.blocks["cbpe"]
    chance = block.calibrators[0](score)
    values = {v.metric: v.value for v in test.values()}
    assert values["calibration_gap"] == pytest.approx(float(np.mean(label - chance)), abs=1e-9)
    predicted = score > 0.5
    right = np.mean((label == predicted) - np.where(predicted, chance, 1 - chance))
    assert values["accuracy_gap"] == pytest.approx(float(right), abs=1e-9)


def test_evidence_without_change_is_reached_as_rarely_as_it_says() -> None:
    """Bernoulli residuals of many chances, no slack: P(within T panes) ≤ α T."""
    random = np.random.default_rng(3)
    panes, streams, rate = 100, 400, 1e-3
    reached = 0
    for _ in range(streams):
        found = Evidence(rate)
        chances = random.beta(0.5, 2.0, (panes, 200))
        residuals = (random.random(chances.shape) < chances) - chances
        for total, variance in zip(
            residuals.sum(axis=1).tolist(), (chances * (1 - chances)).sum(axis=1).tolist(),
            strict=True,
        ):  # fmt: skip
            found.feed(total, variance, 0.0)
            if found.value >= found.threshold:
                reached += 1
                break
    assert reached <= streams * rate * panes


def test_confidence_sequences_hold_at_every_time_at_once() -> None:
    random = np.random.default_rng(4)
    missed = 0
    for _ in range(300):
        chances = random.beta(2, 2, 3_000)
        sums = np.cumsum((random.random(3_000) < chances) - chances)
        spread = np.cumsum(chances * (1 - chances))
        rows = np.arange(1, 3_001)
        reach = [half_width(v, n, 0.05) * n for v, n in
                 zip(spread[99::50].tolist(), rows[99::50].tolist(), strict=True)]  # fmt: skip
        missed += bool(np.any(np.abs(sums[99::50]) > reach))
    assert missed <= 0.05 * 300
    assert np.isnan(half_width(0.0, 0, 0.05))
