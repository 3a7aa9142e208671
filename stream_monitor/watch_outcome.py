"""The models' outcome sides, made ready: what labels that come late are joined and judged with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

import numpy as np
import orjson

from stream_monitor.alerts.judge import Judge
from stream_monitor.config.budget import OutcomeBudget, outcome_budget
from stream_monitor.config.model import Config, LabelsConfig
from stream_monitor.config.units import format_duration, format_size
from stream_monitor.detectors.checks import series_problems
from stream_monitor.detectors.config import of_labels
from stream_monitor.detectors.track import Track
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.labels.join import LABELS, Join, JoinedModel
from stream_monitor.labels.outcome import OutcomeCounter
from stream_monitor.labels.rows import LABEL
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Block
from stream_monitor.methods.outcomes.base import ESTIMATING, REALIZING
from stream_monitor.methods.outcomes.evaluate import OutcomeEvaluator
from stream_monitor.methods.sequential.estimate import EstimateTest
from stream_monitor.panes.layout import Layout
from stream_monitor.panes.partition import Shape
from stream_monitor.panes.windows import ROWS, Window
from stream_monitor.prequential import Prequential
from stream_monitor.reference.learned import loaded
from stream_monitor.reference.profile import Part
from stream_monitor.schema import TARGET
from stream_monitor.watch import Watched, WatchedPart, budgets


@dataclass(frozen=True, slots=True)
class OutcomePart:
    """A model's whole traffic, or a segment: what its outcome panes are evaluated with.

    ``key`` begins the names of its panes, ``input`` is the same part of the input side.
    """

    key: str
    input: WatchedPart
    reference: Part
    layout: Layout
    evaluator: OutcomeEvaluator
    judge: Judge
    realized: Block | None


@dataclass(frozen=True, slots=True)
class OutcomeModel:
    """One model version's outcome side."""

    parts: tuple[OutcomePart, ...]
    prequential: Prequential


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the models whose reference has labels are joined, and how their windows are judged.

    ``folder`` and ``manifests`` are those of the ledgers of earlier runs; without a folder they are
    in memory.
    """

    config: LabelsConfig
    joined: dict[int, JoinedModel]
    models: list[OutcomeModel]
    folder: Path | None = None
    manifests: Mapping[str, bytes] = field(default_factory=dict)

    def join(self, name: str, manifests: Mapping[str, bytes] | None = None) -> Join:
        """The join of this name, its ledgers as they were committed."""
        known = self.manifests if manifests is None else manifests
        return Join(name, self.joined, self.config, self.folder, known)

    @property
    def delays(self) -> list[str]:
        """The names of the maturities."""
        return [format_duration(m) for m in self.config.maturities]

    def shapes(self) -> dict[str, Shape]:
        """Of all outcome panes."""
        return {k: s for m in self.joined.values() for k, s in m.pane_keys(self.delays).items()}

    def keys(self) -> set[str]:
        """Of everything that is stored by model."""
        return {part.key for model in self.models for part in model.parts} | self.shapes().keys()

    def ledgers(self) -> set[str]:
        return {LABELS, *(model.ledger for model in self.joined.values())}


def watch_outcomes(
    config: Config,
    watched: list[Watched],
    windows: tuple[Window, ...],
    place: str,
    *,
    folder: Path | None = None,
    manifests: Mapping[str, bytes] = MappingProxyType({}),
) -> Outcomes | None:
    """What the configuration says about late labels, made ready; None where it says nothing.

    Parameters
    ----------
    folder, manifests
        Of the ledgers; see :class:`~stream_monitor.labels.ledger.Ledger`.

    Raises
    ------
    ConfigError
        Where no reference has labels, or versions of a model have labels of different kinds.
    """
    labels = config.labels
    if labels is None:
        return None
    joined: dict[int, JoinedModel] = {}
    models: list[OutcomeModel] = []
    problems: list[Problem] = []
    kinds: dict[str, bool] = {}
    grains = outcome_grains(windows)
    for i, model in enumerate(watched):
        target = model.profile.cells.get(TARGET)
        if target is None or not any(name in model.blocks for name in REALIZING):
            continue
        if kinds.setdefault(model.name, target.column.continuous) != target.column.continuous:
            remedy = "labels of one version are numbers, of another categories: give one a name"
            problems.append(Problem(f"models[{i}].reference", model.version, remedy))
        counter = OutcomeCounter(
            model.profile,
            [part.reference for part in model.parts],
            model.learned,
            {n: b for n, b in model.blocks.items() if n in config.blocks},
            rows=ROWS in grains,
        )
        identity = orjson.dumps([model.key, grains, labels.maturities])
        digest = blake2b(identity, digest_size=8).hexdigest()
        keys = [f"{part.key}+{digest}" for part in model.parts]
        label = f"{model.name} {model.version}".strip()
        version = model.target.version
        name = [model.name, version, model.profile.fingerprint, str(counter.dtype.descr)]
        rows = blake2b(orjson.dumps(name), digest_size=16).hexdigest()
        joined[i] = JoinedModel(
            model.name, label, rows, keys[0], tuple(keys), counter, grains, told=not model.candidate
        )
        models.append(_model(config, model, counter, keys))
        problems += _series_problems(config, model, models[-1])
    if not joined and not problems:
        remedy = "no reference has labels: build one from data with a label, see mapping.label"
        problems.append(Problem("labels", None, remedy))
    needed = sum(b.memory for b in budgets(config, watched, windows))
    needed += sum(b.memory for b in outcome_budgets(config, joined, windows))
    if needed > config.limits.memory:
        remedy = (
            f"with outcomes the worst case is {format_size(needed)} (see check-config): raise it, "
            "or choose longer windows, smaller labels.maturities or labels.max_predictions"
        )
        problems.append(Problem("limits.memory", format_size(config.limits.memory), remedy))
    if problems:
        raise ConfigError(place, problems)
    return Outcomes(labels, joined, models, folder, manifests)


def outcome_budgets(
    config: Config, joined: Mapping[int, JoinedModel], windows: tuple[Window, ...]
) -> list[OutcomeBudget]:
    """The worst case in bytes of each model's outcome side."""
    labels = config.labels
    if labels is None:
        return []
    return [
        outcome_budget(
            model.label,
            slots=sum(layout.size for layout in model.counter.layouts),
            windows=list(outcome_windows(windows).values()),
            life=labels.horizon + labels.allowed_lateness,
            kinds=1 + len(labels.maturities),
            predictions=labels.max_predictions,
            row=model.counter.dtype.itemsize,
            label=LABEL.itemsize,
        )
        for model in joined.values()
    ]


def _model(
    config: Config, model: Watched, counter: OutcomeCounter, keys: list[str]
) -> OutcomeModel:
    parts = []
    for i, (part, key) in enumerate(zip(model.parts, keys, strict=True)):
        blocks = model.blocks
        if part.label:
            _, blocks, _ = loaded(
                REGISTRY, model.profile.schema, part.reference.cells, model.learned
            )
        chosen = {
            n: b for n, b in blocks.items() if n in (*ESTIMATING, *REALIZING) and n in config.blocks
        }
        whole = part.reference
        reference = Part(whole.label, {TARGET: whole.cells[TARGET]}, whole.layout, whole.chunks)
        evaluator = OutcomeEvaluator(
            reference,
            REGISTRY,
            chosen,
            continuous=config.methods.continuous,
            categorical=config.methods.categorical,
            quality=config.methods.quality,
            compat=config.compat is not None,
        )
        judge = Judge(
            model.name,
            reference,
            evaluator,
            config.alerts,
            segments=len(model.parts) - 1,
            compat=config.compat is not None,
        )
        layout = counter.layouts[i]
        parts.append(
            OutcomePart(
                key, part, reference, layout, evaluator, judge, chosen.get("realized_performance")
            )
        )
    first = parts[0]
    test = EstimateTest.of(
        {n: b for n, b in model.blocks.items() if n in config.blocks},
        first.reference.reference,
        rate=config.alerts.false_alarms,
    )
    track = Track([d for d in config.detectors if of_labels(d)], model.name)
    return OutcomeModel(tuple(parts), Prequential(track, test))


def _series_problems(config: Config, model: Watched, outcome: OutcomeModel) -> list[Problem]:
    """Detectors of what comes late whose series is not there."""
    whole = outcome.parts[0]
    measured = whole.evaluator.measure(whole.reference.reference)
    late = {i: d for i, d in enumerate(config.detectors) if of_labels(d)}
    return series_problems(late, model.name, measured, errors=False)


def outcome_windows(windows: Sequence[Window]) -> dict[str, Window]:
    """The windows as they are for outcomes, by name: none overlaps another of its name."""
    grains = outcome_grains(windows)
    return {w.name: replace(w, step=w.length, grain=grains[w.clock]) for w in windows}


def outcome_grains(windows: Sequence[Window]) -> dict[str, int]:
    """The grain of outcome panes, a clock: what all lengths are multiples of."""
    return {
        clock: int(np.gcd.reduce([w.length for w in windows if w.clock == clock]))
        for clock in {w.clock for w in windows}
    }
