"""The models under watch: each with its reference, made ready to count and to evaluate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from stream_monitor.alerts.judge import Judge
from stream_monitor.config.budget import ModelBudget, budget
from stream_monitor.config.model import Config, KafkaSource, ModelConfig
from stream_monitor.config.units import format_size
from stream_monitor.decode.base import Target
from stream_monitor.detectors.checks import series_problems
from stream_monitor.detectors.config import of_labels
from stream_monitor.detectors.errors import Errors
from stream_monitor.errors import ConfigError, Problem, ProfileError
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Arrays, Block, Sketcher
from stream_monitor.methods.evaluate import Evaluator
from stream_monitor.methods.outcomes.base import REALIZING
from stream_monitor.panes.count import Counter
from stream_monitor.panes.layout import Counted
from stream_monitor.panes.partition import Shape
from stream_monitor.panes.windows import Window, windows_of
from stream_monitor.reference.learned import loaded, target_of
from stream_monitor.reference.profile import Part, Profile, load
from stream_monitor.reference.split import SegmentCounter
from stream_monitor.schema import TARGET, Role


@dataclass(frozen=True, slots=True)
class WatchedPart:
    """A model version's whole traffic (label empty) or a segment of it, ready to be evaluated.

    ``key`` names its panes: it changes with the reference and with the panes' grain, so that
    counts of another layout are never mixed with these. ``model`` is the key of the whole, ``name``
    and ``version`` are the model's as they are shown. What a ``candidate`` says is not judged.
    """

    key: str
    model: str
    name: str
    version: str
    label: str
    reference: Part
    evaluator: Evaluator
    judge: Judge
    candidate: bool = False

    @property
    def outputs(self) -> set[str]:
        """The columns that do not go into the model but come out of it, or of the world."""
        roles = (Role.PREDICTION, Role.SCORE, Role.TARGET)
        return {n for n, cells in self.reference.cells.items() if cells.column.role in roles}


@dataclass(frozen=True, slots=True)
class Watched:
    """One model version under watch.

    ``parts`` are its whole traffic, then its segments; ``key`` is that of the whole. ``blocks``
    are all that the reference has, ``learned`` what they were made of. ``version`` is as it is
    shown, ``target`` has it as events name it.
    """

    name: str
    version: str
    profile: Profile
    target: Target
    counter: Counter
    segments: SegmentCounter
    sketchers: Mapping[str, Sketcher]
    errors: Errors
    parts: tuple[WatchedPart, ...]
    blocks: Mapping[str, Block]
    learned: Mapping[str, Arrays]

    @property
    def key(self) -> str:
        return self.parts[0].key

    @property
    def candidate(self) -> bool:
        return self.parts[0].candidate

    @property
    def shapes(self) -> dict[str, Shape]:
        """What panes hold, by the key of each part; only those of the whole have sketches."""
        readers = {name: sketcher.from_bytes for name, sketcher in self.sketchers.items()}
        return {
            part.key: Shape(part.reference.layout.size, {} if part.label else readers)
            for part in self.parts
        }


def _saved(model: ModelConfig) -> Profile:
    return load(model.reference)


def watch(
    config: Config, place: str, profile_of: Callable[[ModelConfig], Profile] = _saved
) -> tuple[list[Watched], tuple[Window, ...]]:
    """All models of a configuration with their references, and its windows.

    ``profile_of`` gives a model's reference; by default it is that of its file.

    Raises
    ------
    ConfigError
        With a problem for each reference that cannot be used.
    """
    windows = windows_of(config.windows)
    grains = {w.clock: w.grain for w in windows}
    watched, problems = [], []
    for i, model in enumerate(config.models):
        try:
            one = _watched(model, profile_of(model), config, grains)
            watched.append(one)
            whole = one.parts[0]
            layout = whole.reference.layout
            empty = Counted(layout, np.zeros(layout.size, dtype=np.int64))
            measured = whole.evaluator.measure(empty)
            own = {
                i: d
                for i, d in enumerate(config.detectors)
                if config.labels is None or not of_labels(d)
            }
            problems += series_problems(own, model.name, measured, errors=one.errors.known)
            if one.key in {other.key for other in watched[:-1]}:
                remedy = "it is the very reference that is in use: build another"
                problems.append(Problem(f"models[{i}].reference", str(model.reference), remedy))
        except ProfileError as error:
            problems.append(Problem(f"models[{i}].reference", str(model.reference), str(error)))
    memory = sum(b.memory for b in budgets(config, watched, windows))
    if memory > config.limits.memory:
        remedy = (
            f"the worst case is {format_size(memory)} (see check-config): raise it, or choose "
            f"shorter windows, larger `every`, fewer windows or source.partitions"
        )
        problems.append(Problem("limits.memory", format_size(config.limits.memory), remedy))
    if problems:
        raise ConfigError(place, problems)
    return watched, windows


def budgets(
    config: Config, watched: list[Watched], windows: tuple[Window, ...]
) -> list[ModelBudget]:
    """The worst case in bytes of each model."""
    partitions = config.source.partitions if isinstance(config.source, KafkaSource) else 1
    ahead = max_ahead(config) if partitions > 1 else 0
    return [
        budget(
            f"{m.name} {m.version}".strip(),
            sum(part.reference.layout.size for part in m.parts),
            windows,
            sketches=sum(s.most_bytes for s in m.sketchers.values()),
            partitions=partitions,
            lateness=config.time.allowed_lateness + config.time.allowed_skew,
            ahead=ahead,
        )
        for m in watched
    ]


def max_ahead(config: Config) -> int:
    """Microseconds that a partition may run ahead of the slowest."""
    longest = max((w.length for w in config.windows if w.size), default=0)
    return longest if config.time.max_ahead is None else config.time.max_ahead


def _watched(
    model: ModelConfig, profile: Profile, config: Config, grains: dict[str, int]
) -> Watched:
    if profile.model != model.name:
        raise ProfileError(
            f"it is the reference of model {profile.model!r}, not of {model.name!r}; "
            f"build one with --model {model.name}"
        )
    compat = config.compat is not None
    if compat != profile.compat:
        raise ProfileError(
            f"it was built {'with' if profile.compat else 'without'} `compat: nannyml`, the "
            f"configuration is {'with' if compat else 'without'} it; build it anew with "
            "`stream-monitor reference build`"
        )
    identity = orjson.dumps([profile.fingerprint, grains], option=orjson.OPT_SORT_KEYS)
    digest = blake2b(identity, digest_size=8).hexdigest()
    learned = {name: {**arrays, **_worth(config)} for name, arrays in profile.learned.items()}
    scorers, blocks, sketchers = loaded(REGISTRY, profile.schema, profile.cells, learned)
    chosen = {name: s for name, s in sketchers.items() if name in config.blocks}
    whole, *segments = profile.parts
    here = _at_once(blocks, config)
    parts = [_part(model, profile, whole, config, digest, blocks=here, sketchers=chosen)]
    for segment in segments:
        _, own, _ = loaded(REGISTRY, profile.schema, segment.cells, learned)
        own = _at_once(own, config)
        parts.append(_part(model, profile, segment, config, digest, blocks=own, sketchers={}))
    counter = Counter(profile.schema, profile.cells, profile.layout, scorers, here)
    return Watched(
        model.name,
        parts[0].version,
        profile,
        target_of(model.name, model.version, profile.schema, profile.cells),
        counter,
        SegmentCounter(profile),
        chosen,
        Errors(profile.schema, profile.cells),
        tuple(parts),
        blocks,
        learned,
    )


def _at_once(blocks: Mapping[str, Block], config: Config) -> dict[str, Block]:
    """The blocks that do not wait for labels."""
    late = REALIZING if config.labels is not None else ()
    return {name: block for name, block in blocks.items() if name not in late}


def _part(
    model: ModelConfig,
    profile: Profile,
    part: Part,
    config: Config,
    digest: str,
    *,
    blocks: Mapping[str, Block],
    sketchers: Mapping[str, Sketcher],
) -> WatchedPart:
    evaluator = Evaluator(
        part.cells,
        part.reference,
        REGISTRY,
        {name: block for name, block in blocks.items() if name in config.blocks},
        sketchers,
        continuous=config.methods.continuous,
        categorical=config.methods.categorical,
        quality=config.methods.quality,
        compat=config.compat is not None,
        hidden=() if config.labels is None else (TARGET,),
    )
    label = f"/{part.label}" if part.label else ""
    return WatchedPart(
        f"{model.name}/{model.version}{label}@{digest}",
        f"{model.name}/{model.version}@{digest}",
        model.name,
        f"{model.version}+candidate".lstrip("+") if model.candidate else model.version,
        part.label,
        part,
        evaluator,
        Judge(
            model.name,
            part,
            evaluator,
            config.alerts,
            segments=sum(len(one.values) for one in profile.segments),
            compat=config.compat is not None,
        ),
        model.candidate,
    )


def _worth(config: Config) -> dict[str, np.ndarray[Any, Any]]:
    """What the configuration, not the reference, tells the methods, as arrays of theirs."""
    if config.methods.business_value is None:
        return {}
    per_prediction = config.methods.business_value_per_prediction
    return {
        "business_value": np.array(config.methods.business_value, dtype=np.float64),
        "business_value_per_prediction": np.array([per_prediction], dtype=np.uint8),
    }
