"""A payment-fraud model's traffic: 22 features of every kind, a daily rhythm, late labels.

Everything is drawn hour by hour from generators seeded with (seed, hour), so an hour is the same
however it is asked for. Every day has the same mix (there is no week), so windows of whole days are
free of drift until the scenario's onset; shorter ones see the rhythm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stream_monitor.demo.scenario import Scenario, Values

MODEL, VERSION = "payments", "1"
HOUR = 3_600
DAY = 24 * HOUR
START = 1_767_225_600  # 2026-01-01T00:00:00Z
EVENTS_A_DAY = 4_000
_CUTOFF = 0.35  # a payment with a higher score is predicted to be fraud
_LABEL_DELAY = (math.log(6 * HOUR), 1.2)  # of a lognormal distribution: minutes to weeks

_COUNTRIES = ["DE", "ES", "FR", "GB", "IT", "NL", "PL", "US"]
_COUNTRY_MIX = [0.3, 0.08, 0.2, 0.15, 0.1, 0.07, 0.05, 0.05]
_CHANNELS = ["app", "phone", "pos", "web"]
_DEVICES = ["android", "desktop", "ios", "tablet", "terminal"]
_CARDS = ["credit", "debit", "prepaid"]
_MERCHANTS = [f"mcc_{i:04d}" for i in range(50)]
_MERCHANT_MIX = (1 / np.arange(2, 52)) / (1 / np.arange(2, 52)).sum()


@dataclass(frozen=True, slots=True)
class Events:
    """An hour's events in time order: ``columns`` by name, ``label`` and when it is known."""

    ids: list[str]
    time: Values
    columns: dict[str, Values]
    score: Values
    label: Values
    label_time: Values

    def __len__(self) -> int:
        return len(self.time)

    def table(self) -> dict[str, Values]:
        """Flat columns, as a reference is built from."""
        return {
            "id": np.array(self.ids),
            "ts": self.time,
            **self.columns,
            "prediction": self.prediction(),
            "score": self.score,
            "label": self.label,
        }

    def prediction(self) -> Values:
        return (self.score > _CUTOFF).astype(int)

    def lines(self) -> list[bytes]:
        """Native JSON events."""
        names = list(self.columns)
        rows = zip(*(_plain(self.columns[n]) for n in names), strict=True)
        return [
            orjson.dumps(
                {
                    "id": event_id,
                    "model": MODEL,
                    "version": VERSION,
                    "ts": time,
                    "features": dict(zip(names, row, strict=True)),
                    "prediction": prediction,
                    "score": score,
                    "segment": {"country": row[names.index("country")]},
                }
            )
            for event_id, time, row, prediction, score in zip(
                self.ids,
                self.time.tolist(),
                rows,
                self.prediction().tolist(),
                self.score.tolist(),
                strict=True,
            )
        ]


def _plain(values: Values) -> list[Any]:
    """Python values; NaN, which JSON does not have, is null."""
    return [None if v != v else v for v in values.tolist()]  # noqa: PLR0124


class Traffic:
    """Events of any hour since :data:`START`; the scenario sets in at ``onset`` (epoch seconds)."""

    def __init__(self, seed: int, scenario: Scenario, onset: float) -> None:
        self._seed = seed
        self._scenario = scenario
        self._onset = onset

    def hours(self, first: int) -> Iterator[Events]:
        """Hour after hour, from hour number ``first`` on, for ever."""
        number = first
        while True:
            yield self.hour(number)
            number += 1

    def hour(self, number: int) -> Events:
        """The events of one hour; numbers below 0 lie before :data:`START`, as the reference."""
        rng = np.random.default_rng([self._seed, number + 2**20])
        of_day = number % 24
        rhythm = 1 + 0.7 * math.sin((of_day - 9) / 24 * 2 * math.pi)
        n = int(rng.poisson(EVENTS_A_DAY / 24 * rhythm))
        time = np.sort(START + number * HOUR + rng.random(n) * HOUR).round(3)
        columns = _features(rng, n, of_day)
        risk = _risk(columns)
        truth = rng.random(n) < 1 / (1 + np.exp(-risk))
        # the model knows the risk but for a little noise that has no part in the truth
        score = (1 / (1 + np.exp(-(risk + rng.normal(0, 0.3, n))))).round(6)
        delay = rng.lognormal(*_LABEL_DELAY, n)
        drift = np.random.default_rng([self._seed, number + 2**20, 1])
        if START + number * HOUR >= self._onset:
            truth ^= drift.random(n) < self._scenario.flips
            for change in self._scenario.disturbances:
                columns[change.feature] = change.apply(columns[change.feature], drift)
        ids = [f"{number}-{i}" for i in range(n)]
        return Events(ids, time, columns, score, truth.astype(int), time + delay)


def _features(rng: np.random.Generator, n: int, of_day: int) -> dict[str, Values]:
    night = of_day < 6
    taste = rng.normal(size=n)  # the customer: what ties the features together
    channel = [0.45, 0.05, 0.2, 0.3] if night else [0.35, 0.05, 0.35, 0.25]
    return {
        "amount": rng.lognormal(3.5 + 0.3 * taste - 0.2 * night, 0.9).round(2),
        "balance": (rng.lognormal(8 + 0.5 * taste, 1.1)).round(2),
        "card_type": _choice(rng, _CARDS, [0.5, 0.4, 0.1], n),
        "channel": _choice(rng, _CHANNELS, channel, n),
        "chargebacks": rng.poisson(0.05, n),
        "country": _choice(rng, _COUNTRIES, _COUNTRY_MIX, n),
        "credit_lines": rng.poisson(2.5, n),
        "customer_days": rng.gamma(2.0, 400.0, n).round(1),
        "device": _choice(rng, _DEVICES, [0.3, 0.15, 0.35, 0.05, 0.15], n),
        "device_age_days": _gaps(rng, rng.exponential(300.0, n).round(1), 0.01),
        "distance_km": np.where(rng.random(n) < 0.6, 0.0, rng.exponential(80.0, n)).round(2),
        "has_2fa": rng.random(n) < 0.7,
        "income": _gaps(rng, rng.lognormal(10.3 + 0.4 * taste, 0.4).round(0), 0.04),
        "international": rng.random(n) < 0.12,
        "ip_risk": rng.beta(1.2, 8.0, n).round(4),
        "merchant": _choice(rng, _MERCHANTS, _MERCHANT_MIX, n),
        "merchant_risk": rng.beta(2.0, 10.0, n).round(4),
        "new_customer": rng.random(n) < 0.08,
        "payments_24h": rng.poisson(np.exp(0.6 + 0.3 * taste)),
        "session_seconds": rng.lognormal(4.5, 0.7, n).round(1),
        "utilisation": rng.beta(2.0, 3.0, n).round(4),
        "velocity": rng.normal(0.0, 1.0, n).round(4),
    }


def _choice(rng: np.random.Generator, names: list[str], mix: Any, n: int) -> Values:
    return np.array(names)[rng.choice(len(names), n, p=mix)]


def _gaps(rng: np.random.Generator, values: Values, share: float) -> Values:
    return np.where(rng.random(len(values)) < share, np.nan, values)


def _risk(columns: dict[str, Values]) -> Values:
    """Log-odds of fraud. The disturbed features have no part in it, so the score stays."""
    risk: Values = (
        -4.2
        + 9.0 * columns["merchant_risk"]
        + 6.0 * columns["ip_risk"]
        + 1.1 * columns["new_customer"]
        + 0.8 * columns["international"]
        + 0.12 * columns["payments_24h"]
        - 0.5 * columns["has_2fa"]
        + 0.9 * np.minimum(columns["chargebacks"], 3)
    )
    return risk
