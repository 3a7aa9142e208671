"""The model that is measured: 20 floats, 2 categories, a score and a prediction, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet

from stream_monitor.config.load import parse_config
from stream_monitor.config.model import Config
from stream_monitor.methods import REGISTRY
from stream_monitor.reference.build import build_profile
from stream_monitor.reference.profile import Profile, save

START = 1_700_006_400  # 2023-11-15T00:00:00Z
FLOATS, CATEGORIES = 20, 2
REFERENCE_ROWS = 20_000
WINDOWS = [
    {"name": "sliding", "size": "30m", "every": "1m"},
    {"name": "half_hour", "size": "30m"},
]


@dataclass(frozen=True)
class Shape:
    """How many features a model has, of which kinds; ``floats`` are all continuous."""

    floats: int = FLOATS
    categories: int = CATEGORIES


DEFAULT = Shape()


def names(shape: Shape) -> tuple[list[str], list[str]]:
    """Of the continuous and the categorical features."""
    continuous = [f"feature_{i:02d}" for i in range(shape.floats)]
    return continuous, [f"category_{i:02d}" for i in range(shape.categories)]


def columns(rows: int, seed: int, shape: Shape = DEFAULT) -> dict[str, Any]:
    """Features of several distributions, four of them correlated; one value in fifty missing."""
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    common = random.normal(size=rows)
    continuous, categorical = names(shape)
    for i, name in enumerate(continuous):
        draws = (
            lambda: random.normal(size=rows) + common,
            lambda: random.lognormal(1.0, 0.5, rows),
            lambda: random.gamma(2.0, 3.0, rows),
            lambda: random.uniform(-1.0, 1.0, rows),
        )
        values = draws[i % 4]()
        if i % 4 == 1:
            values[random.random(rows) < 0.02] = np.nan
        found[name] = values.round(6)
    for i, name in enumerate(categorical):
        kinds = np.array([f"kind_{k}" for k in range(5 + 15 * (i % 2))])
        found[name] = kinds[random.integers(0, len(kinds), rows)]
    score = 1 / (1 + np.exp(-common - random.normal(size=rows) * 0.5))
    found["score"] = score.round(6)
    found["prediction"] = (score > 0.5).astype(int)
    found["label"] = (random.random(rows) < score).astype(int)
    return found


def events(
    rows: int, seed: int, *, shape: Shape = DEFAULT, rate: float = 1_000.0, start: float = START
) -> list[bytes]:
    """JSON objects, ``rate`` of them a second of event time."""
    found = columns(rows, seed, shape)
    lists = {name: values.tolist() for name, values in found.items()}
    features = [*names(shape)[0], *names(shape)[1]]
    return [
        orjson.dumps(
            {
                "id": f"event-{seed}-{i:09d}",
                "model": "bench",
                "version": "1",
                "ts": round(start + i / rate, 6),
                "features": {
                    name: None if (value := lists[name][i]) != value else value for name in features
                },
                "prediction": lists["prediction"][i],
                "score": lists["score"][i],
            }
        )
        for i in range(rows)
    ]


def labels(rows: int, seed: int, *, rate: float = 1_000.0, start: float = START) -> list[bytes]:
    """A label for each of :func:`events`, 60 seconds after it."""
    found = columns(rows, seed)["label"].tolist()
    return [
        orjson.dumps(
            {
                "id": f"event-{seed}-{i:09d}",
                "model": "bench",
                "ts": round(start + 60 + i / rate, 6),
                "label": label,
            }
        )
        for i, label in enumerate(found)
    ]


def table(rows: int, seed: int, shape: Shape = DEFAULT, *, rate: float = 1_000.0) -> Any:
    """The same rows as an Arrow table."""
    found = columns(rows, seed, shape)
    found["ts"] = START + np.arange(rows) / rate
    return pa.table({name: pa.array(v, from_pandas=True) for name, v in found.items()})


def models(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The section of models with references in a folder."""
    return [{"name": n, "version": "1", "reference": str(folder / f"{n}.ref")} for n in names]


def raw_config(folder: Path, **sections: Any) -> dict[str, Any]:
    """Default methods, two windows of 30 panes; each section may be replaced."""
    return {
        "models": models(folder, "bench"),
        "windows": WINDOWS,
        "mapping": {"arrival": "event_time"},
        "limits": {"memory": "256GiB"},
    } | sections


def config(folder: Path, **sections: Any) -> Config:
    """The same, validated."""
    return parse_config(raw_config(folder, **sections), place="bench", folder=folder)


def build(
    folder: Path,
    shape: Shape = DEFAULT,
    *,
    model: str = "bench",
    rows: int = REFERENCE_ROWS,
    **sections: Any,
) -> Profile:
    """The reference, built and saved."""
    folder.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(table(rows, 1, shape), folder / "train.parquet")
    profile = build_profile(
        [folder / "train.parquet"],
        config(folder, models=models(folder, model), **sections),
        model=model,
        version="1",
        registry=REGISTRY,
        progress=lambda _phase, _done: None,
    )
    save(profile, folder / f"{model}.ref")
    return profile
