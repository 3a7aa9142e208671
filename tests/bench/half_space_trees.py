"""Half-Space Trees beside River's: the same scores to the last bit, and how much sooner."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from river.anomaly import HalfSpaceTrees

from stream_monitor.methods.half_space_forest import HalfSpaceForest
from stream_monitor.schema import FloatArray
from tests.bench.lines import Line, Section, Tell, microseconds, turns

FEATURES, WINDOW, SEED = 20, 250, 42
# trees, height, gain aimed at, rows of a pair
SIZES = ((10, 8, 25.0, 8_000), (25, 8, 40.0, 4_000), (25, 15, 150.0, 2_000))
PAIRS = 7


def measure(tell: Tell) -> Section:
    lines = []
    for trees, height, gain, number in SIZES:
        what = f"{trees} trees of height {height}"
        tell(what)
        pair = Pair(trees, height, number)
        ours, theirs = turns(pair.ours, pair.theirs, number=PAIRS, units=number)
        if not (pair.scores[0] == pair.scores[1]).all():
            raise SystemExit(f"{what}: the scores are not River's")
        lines.append(
            Line(
                what=f"{what}: score and learn each row",
                baseline="River",
                unit="µs a row",
                ours=microseconds(ours),
                theirs=microseconds(theirs),
                least=gain,
            )
        )
    return Section(
        title="Half-Space Trees",
        command="python -m tests.bench half_space_trees",
        lines=lines,
        facts=["All scores are River's, to the last bit; the benchmark ends where one is not."],
    )


class Pair:
    """The same rows through both, each a forest of its own every time."""

    def __init__(self, trees: int, height: int, number: int) -> None:
        self._rows = np.random.default_rng(1).random((number, FEATURES))
        names = [f"f{i:02d}" for i in range(FEATURES)]
        self._events = [dict(zip(names, row, strict=True)) for row in self._rows.tolist()]
        self._limits: dict[Any, tuple[float, float]] = dict.fromkeys(names, (0.0, 1.0))
        self._trees, self._height = trees, height
        self.scores: list[FloatArray] = [np.empty(0), np.empty(0)]

    def ours(self) -> float:
        forest = HalfSpaceForest(
            np.array([*self._limits.values()]),
            number=self._trees,
            height=self._height,
            window=WINDOW,
            seed=SEED,
        )
        began = time.process_time()
        self.scores[0] = forest.score_learn(self._rows)
        return time.process_time() - began

    def theirs(self) -> float:
        forest: Any = HalfSpaceTrees(
            n_trees=self._trees,
            height=self._height,
            window_size=WINDOW,
            limits=self._limits,
            seed=SEED,
        )
        scores = []
        forest.learn_one(self._events[0])  # builds the trees, which is not what is measured
        forest = self._anew(forest)
        began = time.process_time()
        for event in self._events:
            scores.append(forest.score_one(event))
            forest.learn_one(event)
        spent = time.process_time() - began
        self.scores[1] = np.array(scores)
        return spent

    def _anew(self, forest: Any) -> Any:
        """With its trees as they are before the first row."""
        for tree in forest.trees:
            for node in tree.iter_dfs():
                node.l_mass = node.r_mass = 0
        forest.counter = 0
        return forest
