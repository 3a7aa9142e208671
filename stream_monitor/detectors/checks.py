"""Checks of the configured detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stream_monitor.detectors.config import PER_EVENT, DetectorConfig
from stream_monitor.detectors.registry import option_problems
from stream_monitor.errors import Problem
from stream_monitor.methods.base import Measured


def detector_problems(
    detectors: Sequence[DetectorConfig], *, models: Iterable[str], ordered: bool, late: bool
) -> list[Problem]:
    """What is wrong with the detectors themselves.

    ``ordered`` says that the events come in one order: files, standard input, a followed log, or
    a topic of a single partition. ``late`` says that labels come after their events.
    """
    problems = []
    names, known = [d.name for d in detectors], list(dict.fromkeys(models))
    for i, detector in enumerate(detectors):
        key = f"detectors[{i}]"
        if names.index(detector.name) != i:
            problems.append(Problem(f"{key}.name", detector.name, "give each its own name"))
        if detector.model is not None and detector.model not in known:
            remedy = f"choose from {', '.join(known)}"
            problems.append(Problem(f"{key}.model", detector.model, remedy))
        if detector.method in PER_EVENT and not ordered:
            remedy = (
                "takes events one by one, and events of several partitions have no order that a "
                "replay would repeat; use adwin or hddm_a on `realized_performance/accuracy`"
            )
            problems.append(Problem(f"{key}.method", detector.method, remedy))
        if detector.method in PER_EVENT and late:
            remedy = (
                "takes errors event by event, and with a `labels` section they come in no fixed "
                "order; use adwin or hddm_a on `realized_performance/accuracy`"
            )
            problems.append(Problem(f"{key}.method", detector.method, remedy))
        problems += [
            Problem(f"{key}.options.{option}", value, remedy)
            for option, value, remedy in option_problems(detector.method, detector.options)
        ]
    return problems


def series_problems(
    detectors: Mapping[int, DetectorConfig],
    model: str,
    measured: Iterable[Measured],
    *,
    errors: bool,
) -> list[Problem]:
    """Detectors of a model whose series is not among its values.

    ``detectors`` are by their place in the configuration. ``measured`` are those of any window, for
    a model's are always the same: an empty one will do.
    ``errors`` says whether its single predictions can be told right or wrong.
    """
    known = {(m.family, m.metric, m.feature) for m in measured}
    problems = []
    for i, detector in detectors.items():
        if detector.model not in (None, model):
            continue
        remedy = None
        if detector.method not in PER_EVENT:
            remedy = _nearest(detector, model, known) if detector.key not in known else None
        elif not errors:
            remedy = f"model {model} has no classes as prediction and target in its reference"
        if remedy is not None:
            problems.append(Problem(f"detectors[{i}].series", detector.series, remedy))
    return problems


def _nearest(detector: DetectorConfig, model: str, known: set[tuple[str, str, str]]) -> str:
    """The names that may stand where the first wrong one stands."""
    prefix: tuple[str, ...] = ()
    for part in detector.key:
        choices = sorted({key[len(prefix)] for key in known if key[: len(prefix)] == prefix})
        if part not in choices:
            there = f"in {'/'.join(prefix)} " if prefix else ""
            named = [choice or "(no feature)" for choice in choices]
            return f"model {model} has {there}only {', '.join(named)}"
        prefix = (*prefix, part)
    raise AssertionError(detector.series)  # only series that are not known come here
