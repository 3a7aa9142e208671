"""Reading the configuration file: every problem at once, each with its key, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from stream_monitor.config.model import (
    Config,
    FilesSource,
    FollowSource,
    KafkaLabels,
    KafkaSource,
    KafkaStore,
    SqliteStore,
)
from stream_monitor.config.secrets import anchored
from stream_monitor.config.units import format_duration
from stream_monitor.errors import ConfigError, Problem

Check = Callable[[Config], list[Problem]]

_REMEDIES = {
    "missing": "add this key",
    "extra_forbidden": "no such key; see docs/configuration.md for the keys of this section",
    "union_tag_not_found": "add `type`: kafka, files, follow or stdin",
    "union_tag_invalid": "`type` is one of kafka, files, follow, stdin",
}


def load_config(path: Path, checks: Sequence[Check] = ()) -> Config:
    """The configuration in a YAML file.

    Relative paths in it are taken from the file's own folder. ``checks`` are those that need to
    know more than the configuration itself; a section that is wrong stands at its default there.

    Raises
    ------
    ConfigError
        With every problem that was found.
    """
    place = str(path)
    try:
        with path.open(encoding="utf-8") as file:  # of which, unlike of text, errors quote no line
            raw = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give the path of a readable YAML file with --config"
        raise ConfigError(place, [Problem("(file)", str(error), remedy)]) from None
    except yaml.YAMLError as error:
        # what it quotes, an alias or a tag, may be a password without quotes
        text = re.sub(r"'.{2,}?'", "'…'", str(error))
        raise ConfigError(place, [Problem("(file)", text, "mend the YAML")]) from None
    return parse_config(raw, place=place, folder=path.resolve().parent, checks=checks)


def parse_config(raw: object, *, place: str, folder: Path, checks: Sequence[Check] = ()) -> Config:
    """The configuration in what YAML gave; errors as :func:`load_config`."""
    if not isinstance(raw, dict):
        problem = Problem("(file)", raw, "write a mapping with at least `models` and `windows`")
        raise ConfigError(place, [problem])
    found, problems = _sections(raw)
    # all that is right so far, so that one wrong section does not hide what is wrong in another
    config = _anchored(Config.model_construct(None, **found), folder)
    own = (_model_problems, _window_problems, _store_problems, _label_problems, _alert_problems)
    for check in (*own, *checks):
        problems += check(config)
    if problems:
        raise ConfigError(place, problems)
    return config


def _sections(raw: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Every section, at its default where it is wrong, and everything that is wrong."""
    found: dict[str, Any] = {}
    problems = [
        Problem(str(key), raw[key], f"no such section; there are {', '.join(Config.model_fields)}")
        for key in raw
        if key not in Config.model_fields
    ]
    for name, field in Config.model_fields.items():
        found[name] = [] if field.is_required() else field.get_default(call_default_factory=True)
        if name in raw:
            try:
                kind: Any = Annotated[field.annotation, field]
                found[name] = TypeAdapter(kind).validate_python(raw[name])
            except ValidationError as error:
                problems += [_problem(name, e) for e in error.errors()]
        elif field.is_required():
            problems.append(Problem(name, None, _REMEDIES["missing"]))
    return found, problems


def _problem(section: str, error: ErrorDetails) -> Problem:
    key = section + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"])
    value = None if error["type"] == "missing" else error["input"]
    message = error["msg"].removeprefix("Value error, ")
    return Problem(key, value, _REMEDIES.get(error["type"], message))


def _model_problems(config: Config) -> list[Problem]:
    problems = []
    seen: set[tuple[str, str, bool]] = set()
    in_use = {(model.name, model.version) for model in config.models if not model.candidate}
    for i, model in enumerate(config.models):
        shown = f"{model.name}/{model.version}"
        if (model.name, model.version, model.candidate) in seen:
            remedy = "each name and version may stand here once, and once as `candidate`"
            problems.append(Problem(f"models[{i}]", shown, remedy))
        seen.add((model.name, model.version, model.candidate))
        if model.candidate and (model.name, model.version) not in in_use:
            remedy = "there is no entry of this name and version without it: leave it out"
            problems.append(Problem(f"models[{i}].candidate", True, remedy))
    return problems


def _window_problems(config: Config) -> list[Problem]:
    problems = []
    names = [w.name for w in config.windows]
    for i, window in enumerate(config.windows):
        key = f"windows[{i}]"
        if names.index(window.name) != i:
            problems.append(Problem(f"{key}.name", window.name, "give each window its own name"))
        if window.size and config.mapping.timestamp is None:
            remedy = "windows of time need `mapping.timestamp`; without one use `rows`"
            problems.append(Problem(f"{key}.size", format_duration(window.size), remedy))
        if window.rows and isinstance(config.source, KafkaSource):
            remedy = "rows have one order only in one ordered input; use `size: 1h` with Kafka"
            problems.append(Problem(f"{key}.rows", window.rows, remedy))
    return problems


def _store_problems(config: Config) -> list[Problem]:
    store, source = config.store, config.source
    if isinstance(store, SqliteStore):
        if config.role == "all":
            return []
        remedy = "state in a file is of one process: use `store: {type: kafka}`, or leave it out"
        return [Problem("role", config.role, remedy)]
    problems = []
    labels = None if config.labels is None else config.labels.source
    if isinstance(source, KafkaSource):
        alone = isinstance(labels, FilesSource | FollowSource)
    else:
        alone = source is not None
        if store.bootstrap_servers is None:
            problems.append(Problem("store.bootstrap_servers", None, "name the brokers"))
    if alone and store.instance is None and config.role != "aggregator":
        remedy = "give each replica that reads files a name of its own, which it keeps"
        problems.append(Problem("store.instance", None, remedy))
    for i, window in enumerate(config.windows):
        if window.rows and not isinstance(source, KafkaSource):
            remedy = "replicas have no common order of rows; use `size: 1h` with a Kafka store"
            problems.append(Problem(f"windows[{i}].rows", window.rows, remedy))
    return problems


def _label_problems(config: Config) -> list[Problem]:
    if config.labels is None:
        return []
    problems = []
    source = config.labels.source
    if config.mapping.timestamp is None:
        remedy = "labels are joined by time, too: events need `mapping.timestamp`"
        problems.append(Problem("labels", "", remedy))
    if isinstance(source, KafkaLabels):
        if config.source is not None and not isinstance(config.source, KafkaSource):
            remedy = "events do not come from Kafka: give labels a `files` or `follow` source"
            problems.append(Problem("labels.source.type", source.type, remedy))
        elif isinstance(config.source, KafkaSource):
            both = sorted({*source.topics} & {*config.source.topics})
            problems += [
                Problem("labels.source.topics", topic, "it is a topic of events: name another")
                for topic in both
            ]
    return problems


def _alert_problems(config: Config) -> list[Problem]:
    problems = []
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


def _anchored(config: Config, folder: Path) -> Config:
    """The same configuration with relative paths made absolute."""
    labels = config.labels
    if labels is not None:
        own = _anchored_source(labels.source, folder)
        labels = labels.model_copy(update={"source": own})
    http = config.http
    if http.web_config is not None:
        http = http.model_copy(update={"web_config": folder / http.web_config})
    return config.model_copy(
        update={
            "http": http,
            "source": _anchored_source(config.source, folder),
            "labels": labels,
            "models": [
                m.model_copy(update={"reference": folder / m.reference}) for m in config.models
            ],
            "store": _anchored_client(
                config.store.model_copy(update={"path": folder / config.store.path}), folder
            ),
        }
    )


def _anchored_source(source: Any, folder: Path) -> Any:
    if isinstance(source, FilesSource):
        return source.model_copy(update={"path": str(folder / source.path)})
    if isinstance(source, FollowSource):
        return source.model_copy(update={"path": folder / source.path})
    return _anchored_client(source, folder)


def _anchored_client(section: Any, folder: Path) -> Any:
    if isinstance(section, KafkaSource | KafkaStore) and section.options is not None:
        return section.model_copy(update={"options": anchored(section.options, folder)})
    return section
