"""A small world for tests: data of every kind, its reference, configurations, events as JSON."""

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

START = 1_700_006_400  # 2023-11-15T00:00:00Z, a whole day
CHANNELS = np.array(["app", "branch", "phone", "web"])


@dataclass(frozen=True)
class World:
    """A reference on disk and what belongs to it."""

    folder: Path
    profile: Profile

    def config(self, **sections: Any) -> Config:
        return parse_config(raw_config(**sections), place="test", folder=self.folder)


def raw_config(**sections: Any) -> dict[str, Any]:
    return {
        "models": [{"name": "loans", "version": "1", "reference": "loans.ref"}],
        "windows": [{"name": "hour", "size": "1h"}],
    } | sections


def columns(rows: int, seed: int, *, shift: float = 0.0) -> dict[str, Any]:
    """Columns of every kind; about one value in fifty missing in ``income``."""
    rng = np.random.default_rng(seed)
    income = rng.lognormal(10 + shift, 0.5, rows)
    income[rng.random(rows) < 0.02] = np.nan
    score = rng.beta(2, 5, rows)
    return {
        "age": rng.integers(18, 80, rows),
        "income": income,
        "ratio": np.where(rng.random(rows) < 0.3, 0.0, rng.random(rows)),
        "channel": CHANNELS[rng.choice(4, rows, p=[0.4, 0.1, 0.2, 0.3])],
        "member": rng.random(rows) < 0.25,
        "prediction": (score > 0.4).astype(int),
        "score": score,
        "label": (rng.random(rows) < score).astype(int),
    }


def table(rows: int, seed: int, *, shift: float = 0.0, seconds: float = 10.0) -> Any:
    """Rows as a flat Arrow table with ``ts`` in epoch seconds, ``seconds`` apart."""
    found = columns(rows, seed, shift=shift)
    found["ts"] = START + np.arange(rows) * seconds
    return pa.table({name: pa.array(v, from_pandas=True) for name, v in found.items()})


def events(rows: int, seed: int, *, shift: float = 0.0, seconds: float = 10.0) -> list[bytes]:
    """The same rows as native JSON events."""
    found = columns(rows, seed, shift=shift)
    lists = {name: values.tolist() for name, values in found.items()}
    features = [name for name in lists if name not in ("prediction", "score", "label")]
    lines = []
    for i in range(rows):
        event = {
            "id": f"{seed}-{i}",
            "model": "loans",
            "version": "1",
            "ts": START + i * seconds,
            "features": {
                name: None if lists[name][i] != lists[name][i] else lists[name][i]
                for name in features
            },
            "prediction": lists["prediction"][i],
            "score": lists["score"][i],
            "label": lists["label"][i],
        }
        lines.append(orjson.dumps(event))
    return lines


def build(folder: Path, *, rows: int = 4_000, seed: int = 1, **sections: Any) -> World:
    """A world with its reference built and saved in a folder."""
    pa.parquet.write_table(table(rows, seed), folder / "train.parquet")
    config = parse_config(raw_config(**sections), place="test", folder=folder)
    profile = build_profile(
        [folder / "train.parquet"],
        config,
        model="loans",
        version="1",
        registry=REGISTRY,
        progress=lambda _phase, _done: None,
    )
    save(profile, folder / "loans.ref")
    return World(folder, profile)
