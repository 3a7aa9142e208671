"""Which of River's drift detectors there are, their options and what each expects of its values.

River 0.26's own definitions hold, its quirks included: after a detection every detector begins
anew at the next value. Defaults are River's but where they are useless on pane means; those below
were chosen by the rates and delays in docs/methods.md.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

_SHARE = (5e-324, math.nextafter(1.0, 0.0))  # strictly between 0 and 1
_POSITIVE = (5e-324, 1e9)
_COUNT = (1.0, 1e6)


@dataclass(frozen=True, slots=True)
class Method:
    """One kind of detector.

    Attributes
    ----------
    name
        Of River's class, in its module ``river.drift`` or ``river.drift.binary``.
    help
        What it tests, its source, and the assumption about its values.
    ranges
        Least and greatest allowed value of each numeric option. What is neither here nor in
        ``choices`` cannot be set.
    defaults
        Where ours differ from River's.
    choices
        Allowed values of options that are text.
    unit
        Its bounds hold for values in [0, 1] only.
    """

    name: str
    help: str
    ranges: Mapping[str, tuple[float, float]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unit: bool = False

    @property
    def kind(self) -> Any:
        """River's class. Imported only here: River takes a second that most runs need not spend."""
        module, _, name = self.name.rpartition(".")
        return getattr(import_module(module), name)

    @property
    def options(self) -> dict[str, Any]:
        """Every option that can be set, with its default."""
        parameters = inspect.signature(self.kind).parameters
        names = [n for n in parameters if n in self.ranges or n in self.choices]
        return {n: self.defaults.get(n, parameters[n].default) for n in names}


METHODS: dict[str, Method] = {
    "adwin": Method(
        "river.drift.ADWIN",
        "Means of two parts of an adaptive window differ by more than chance allows (Bifet and "
        "Gavaldà 2007). The guarantee is for values in [0, 1]; River's bound has the window's "
        "variance in its leading term and works on standardised values too.",
        {"delta": _SHARE, "clock": _COUNT, "max_buckets": (1, 1000), "min_window_length": _COUNT,
         "grace_period": _COUNT},
        # River looks at every 32nd value only: half an hour of panes of a minute
        {"clock": 1},
    ),
    "page_hinkley": Method(
        "river.drift.PageHinkley",
        "Cumulative sum of deviations from the running mean, less `delta` each, exceeds "
        "`threshold` (Page 1954). Both are in the unit of the values: standard deviations where "
        "they are standardised.",
        {"min_instances": _COUNT, "delta": (0.0, 1e9), "threshold": _POSITIVE,
         "alpha": (5e-324, 1.0)},
        # half of the shift to be found, as usual for cumulative sums; River's 0.005 and 50 let a
        # random walk of standardised values through about every 2,000 panes
        {"delta": 0.5, "threshold": 15.0},
        {"mode": ("up", "down", "both")},
    ),
    "kswin": Method(
        "river.drift.KSWIN",
        "Two-sample Kolmogorov-Smirnov test of the newest `stat_size` values against as many "
        "drawn from those before them (Raab, Heusinger and Schleif 2020). Of any scale; the draw "
        "is seeded.",
        {"alpha": _SHARE, "window_size": (4, 10_000), "stat_size": (2, 5_000),
         "seed": (0, 2**32 - 1)},
        # it tests at every value: River's 0.005 alarms once in about 800 panes without any drift
        {"alpha": 1e-4, "seed": 42},
    ),
    "hddm_a": Method(
        "river.drift.binary.HDDMA",
        "Hoeffding's bound on the difference of a mean before and after a cut (Frías-Blanco et "
        "al. 2014). Needs independent values in [0, 1].",
        {"drift_confidence": _SHARE, "warning_confidence": _SHARE, "two_sided_test": (0, 1)},
        {"two_sided_test": True},
        unit=True,
    ),
    "hddm_w": Method(
        "river.drift.binary.HDDMW",
        "McDiarmid's bound on the difference of exponentially weighted means (Frías-Blanco et "
        "al. 2014). Needs independent values in [0, 1].",
        {"drift_confidence": _SHARE, "warning_confidence": _SHARE, "lambda_val": _SHARE,
         "two_sided_test": (0, 1)},
        {"two_sided_test": True},
        unit=True,
    ),
    "ddm": Method(
        "river.drift.binary.DDM",
        "The share of errors exceeds its least value by `drift_threshold` standard errors (Gama "
        "et al. 2004), event by event. After a start without errors the first error alarms.",
        {"warm_start": _COUNT, "warning_threshold": _POSITIVE, "drift_threshold": _POSITIVE},
    ),
    "eddm": Method(
        "river.drift.binary.EDDM",
        "The distance between errors falls below `beta` of its greatest value (Baena-García et "
        "al. 2006), event by event.",
        {"warm_start": _COUNT, "alpha": (5e-324, 1.0), "beta": (5e-324, 1.0)},
    ),
}  # fmt: skip


def make(method: str, options: Mapping[str, Any]) -> Any:
    """A new detector of River's; the options must have passed :func:`option_problems`."""
    return METHODS[method].kind(**{**METHODS[method].options, **options})


def option_problems(method: str, given: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """What is wrong with a detector's options: option, value, remedy."""
    known = METHODS[method].options
    found = []
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(f"{n} (default {default!r})" for n, default in known.items())
            found.append((name, value, f"{method} has the options {listed}"))
        elif (remedy := _misfit(METHODS[method], name, value, known[name])) is not None:
            found.append((name, value, remedy))
    if found:
        return found
    chosen = {**known, **given}
    if method == "kswin" and chosen["window_size"] < 2 * chosen["stat_size"]:
        remedy = "must be at least twice stat_size: as many older values are drawn"
        found.append(("window_size", chosen["window_size"], remedy))
    if method == "eddm" and chosen["alpha"] < chosen["beta"]:
        found.append(("alpha", chosen["alpha"], f"must not be less than beta, {chosen['beta']}"))
    return found


def _misfit(method: Method, name: str, value: object, default: object) -> str | None:
    """What a value should be, or None where it is right."""
    if name in method.choices:
        choices = method.choices[name]
        return None if value in choices else f"choose from {', '.join(choices)}"
    low, high = method.ranges[name]
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "write true or false"
    whole = isinstance(default, int)
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if fits and isinstance(value, int | float) and low <= value <= high:
        return None
    if method.ranges[name] == _SHARE:
        return "write a number between 0 and 1, not 0 or 1"
    kind = "whole number" if whole else "number above 0," if low == 5e-324 else "number"
    return f"write a {kind} of at most {high:g}" + ("" if low == 5e-324 else f", at least {low:g}")
