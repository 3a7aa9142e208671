"""Checks of a configuration that need to know the methods, the Kafka client or the references."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stream_monitor.config.load import load_config
from stream_monitor.config.model import Config, KafkaSource, KafkaStore
from stream_monitor.detectors.checks import detector_problems
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.expose.web_config import load_web_config
from stream_monitor.methods import REGISTRY, gradient_boosting
from stream_monitor.methods.outcomes.base import OUTCOMES
from stream_monitor.schema import Kind
from stream_monitor.sources.kafka_options import client_problems
from stream_monitor.values import QUALITY


def read_config(path: Path, *, serves: bool = False) -> Config:
    """The configuration, checked for everything but its references.

    ``serves``: for a process that listens. What only reads the configuration, such as a backtest
    on another machine, needs no certificates.
    """
    checks = (method_problems, override_problems, client_option_problems, _detector_problems)
    return load_config(path, (*checks, web_problems) if serves else checks)


def method_problems(config: Config) -> list[Problem]:
    """Methods that are not there, or stand twice."""
    problems = []
    for key, chosen, kind in (
        ("continuous", config.methods.continuous, Kind.CONTINUOUS),
        ("categorical", config.methods.categorical, Kind.CATEGORICAL),
    ):
        known = [name for name, m in REGISTRY.drift.items() if kind in m.kinds]
        problems += _unknown(f"methods.{key}", chosen, known)
    quality = [n for n, m in REGISTRY.share.items() if m.definition.family == QUALITY]
    problems += _unknown("methods.quality", config.methods.quality, quality)
    chosen = config.methods.blocks
    if find_spec("lightgbm") is None:
        problems += [
            Problem(f"methods.blocks[{i}]", name, "needs: pip install 'stream-monitor[lightgbm]'")
            for i, name in enumerate(chosen)
            if name in gradient_boosting.USERS
        ]
    return problems + _unknown("methods.blocks", chosen, [*REGISTRY.block, *REGISTRY.sketch])


def override_problems(config: Config) -> list[Problem]:
    """Overrides of thresholds that can fit no value."""
    blocks = [d.metric for m in REGISTRY.block.values() for d in m.definitions]
    sketches = [d.metric for m in REGISTRY.sketch.values() for d in m.definitions]
    outcomes = [d.metric for m in OUTCOMES.values() for d in m.definitions]
    single = [*REGISTRY.drift, *REGISTRY.share, *REGISTRY.row]
    metrics = [
        "rows_count",
        *single,
        *blocks,
        *sketches,
        *outcomes,
        *(d.name for d in config.detectors),
    ]
    models = list(dict.fromkeys(m.name for m in config.models))
    return [
        Problem(f"alerts.overrides[{i}].{key}", name, f"choose from {', '.join(known)}")
        for i, override in enumerate(config.alerts.overrides)
        for key, name, known in (
            ("metric", override.metric, metrics),
            ("model", override.model, models),
        )
        if name is not None and name not in known
    ]


def _detector_problems(config: Config) -> list[Problem]:
    source = config.source
    ordered = not isinstance(source, KafkaSource) or source.partitions == 1
    ordered &= not isinstance(config.store, KafkaStore)
    models = [m.name for m in config.models]
    return detector_problems(
        config.detectors, models=models, ordered=ordered, late=config.labels is not None
    )


def client_option_problems(config: Config) -> list[Problem]:
    """Options that the client does not have, or that are the monitor's own."""
    clients: dict[str, tuple[dict[str, object], str]] = {}
    if isinstance(config.source, KafkaSource):
        clients["source"] = config.source.options, config.source.client
    if isinstance(config.store, KafkaStore) and config.store.options is not None:
        clients["store"] = config.store.options, "kafka-python"
    return [
        Problem(f"{section}.options.{key}", value, remedy)
        for section, (options, library) in clients.items()
        for key, value, remedy in client_problems(options, library)
    ]


def web_problems(config: Config) -> list[Problem]:
    """What is wrong with the file of TLS and passwords."""
    try:
        load_web_config(config.http.web_config)
    except ConfigError as error:
        return [Problem(f"http.web_config: {p.key}", p.value, p.remedy) for p in error.problems]
    return []


def _unknown(key: str, chosen: list[str], known: list[str]) -> list[Problem]:
    remedy = f"choose from {', '.join(known)}"
    return [
        Problem(f"{key}[{i}]", name, remedy if name not in known else "stands here twice")
        for i, name in enumerate(chosen)
        if name not in known or name in chosen[:i]
    ]
