"""Reading the configuration file: every problem at once, each with its key, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stream_monitor.config.model import Config, FilesSource, FollowSource, KafkaSource
from stream_monitor.config.units import format_duration
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.methods import REGISTRY
from stream_monitor.schema import Kind
from stream_monitor.sources.kafka import client_problems

_REMEDIES = {
    "missing": "add this key",
    "extra_forbidden": "no such key; see docs/configuration.md for the keys of this section",
    "union_tag_not_found": "add `type`: kafka, files, follow or stdin",
    "union_tag_invalid": "`type` is one of kafka, files, follow, stdin",
}


def load_config(path: Path) -> Config:
    """The configuration in a YAML file.

    Relative paths in it are taken from the file's own folder.

    Raises
    ------
    ConfigError
        With every problem that was found.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give the path of a readable YAML file with --config"
        raise ConfigError(str(path), [Problem("(file)", str(error), remedy)]) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [Problem("(file)", str(error), "mend the YAML")]) from None
    if not isinstance(raw, dict):
        problem = Problem("(file)", raw, "write a mapping with at least `models` and `windows`")
        raise ConfigError(str(path), [problem])
    return parse_config(raw, place=str(path), folder=path.resolve().parent)


def parse_config(raw: Mapping[str, Any], *, place: str, folder: Path) -> Config:
    """The configuration in a mapping as YAML gives it; errors as :func:`load_config`."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(place, [_problem(e) for e in error.errors()]) from None
    problems = _contradictions(config)
    if problems:
        raise ConfigError(place, problems)
    return _anchored(config, folder)


def _problem(error: ErrorDetails) -> Problem:
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"]).lstrip(".")
    value = None if error["type"] == "missing" else error["input"]
    message = error["msg"].removeprefix("Value error, ")
    return Problem(key or "(file)", value, _REMEDIES.get(error["type"], message))


def _contradictions(config: Config) -> list[Problem]:
    """What no single key shows."""
    return [
        *_model_problems(config),
        *_window_problems(config),
        *_method_problems(config),
        *_source_problems(config),
    ]


def _model_problems(config: Config) -> list[Problem]:
    problems = []
    seen: set[tuple[str, str]] = set()
    for i, model in enumerate(config.models):
        if (model.name, model.version) in seen:
            remedy = "each name and version may stand here once"
            problems.append(Problem(f"models[{i}]", f"{model.name}/{model.version}", remedy))
        seen.add((model.name, model.version))
    return problems


def _window_problems(config: Config) -> list[Problem]:
    problems = []
    names = [w.name for w in config.windows]
    for i, window in enumerate(config.windows):
        key = f"windows[{i}]"
        if names.index(window.name) != i:
            problems.append(Problem(f"{key}.name", window.name, "give each window its own name"))
        if (window.size is None) == (window.rows is None):
            problems.append(Problem(key, window.name, "give either `size` or `rows`"))
        elif window.rows is not None and window.every is not None:
            problems.append(Problem(f"{key}.every", window.every, "only a window of time slides"))
        elif window.size and window.every and window.size % window.every:
            remedy = f"choose a part of the size ({format_duration(window.size)}), such as a 24th"
            problems.append(Problem(f"{key}.every", format_duration(window.every), remedy))
        if window.size and config.mapping.timestamp is None:
            remedy = "windows of time need `mapping.timestamp`; without one use `rows`"
            problems.append(Problem(f"{key}.size", format_duration(window.size), remedy))
        if window.rows and isinstance(config.source, KafkaSource):
            remedy = "rows have one order only in one ordered input; use `size: 1h` with Kafka"
            problems.append(Problem(f"{key}.rows", window.rows, remedy))
    return problems


def _method_problems(config: Config) -> list[Problem]:
    problems = []
    for key, chosen, kind in (
        ("continuous", config.methods.continuous, Kind.CONTINUOUS),
        ("categorical", config.methods.categorical, Kind.CATEGORICAL),
    ):
        known = [m.metric for m in REGISTRY.drift.values() if kind in m.kinds]
        problems += _unknown(f"methods.{key}", chosen, known)
    quality = [m.metric for m in REGISTRY.share.values() if m.family == "quality"]
    problems += _unknown("methods.quality", config.methods.quality, quality)
    for i, override in enumerate(config.alerts.overrides):
        key = f"alerts.overrides[{i}]"
        if override.lower is None and override.upper is None:
            problems.append(Problem(key, override.metric, "give `lower`, `upper` or both"))
        elif (
            override.lower is not None
            and override.upper is not None
            and override.lower > override.upper
        ):
            problems.append(Problem(f"{key}.lower", override.lower, "must not exceed `upper`"))
    return problems


def _unknown(key: str, chosen: list[str], known: list[str]) -> list[Problem]:
    remedy = f"choose from {', '.join(known)}"
    return [
        Problem(f"{key}[{i}]", name, remedy if name not in known else "stands here twice")
        for i, name in enumerate(chosen)
        if name not in known or name in chosen[:i]
    ]


def _source_problems(config: Config) -> list[Problem]:
    if isinstance(config.source, KafkaSource):
        return [
            Problem(f"source.client.{key}", value, remedy)
            for key, value, remedy in client_problems(config.source.client)
        ]
    return []


def _anchored(config: Config, folder: Path) -> Config:
    """The same configuration with relative paths made absolute."""
    source = config.source
    if isinstance(source, FilesSource):
        source = source.model_copy(update={"path": str(folder / source.path)})
    elif isinstance(source, FollowSource):
        source = source.model_copy(update={"path": folder / source.path})
    return config.model_copy(
        update={
            "source": source,
            "models": [
                m.model_copy(update={"reference": folder / m.reference}) for m in config.models
            ],
            "store": config.store.model_copy(update={"path": folder / config.store.path}),
        }
    )
