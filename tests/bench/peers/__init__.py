"""``backtest`` beside NannyML, whylogs and Evidently: the same Parquet files, the same chunks.

What is compared are whole programs, from their start to their end, imports, reading and writing
included: ``backtest``, which learns the reference first, on one side, on the other a short program
that does with the peer what its documentation says. Each has its own default parallelism, and draws
nothing. That both give the same values is checked on the first pair.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
import yaml

from tests.bench import world
from tests.bench.lines import Line, Section, Tell, turns
from tests.bench.peers import agreement
from tests.bench.peers.agreement import Files
from tests.bench.peers.environment import HERE, Cost, python_of, run

MODEL: dict[str, Any] = {
    "models": [{"name": "bench", "reference": "model.ref"}],
    "mapping": {
        "timestamp": "ts", "features": ".", "prediction": "y_pred", "score": "y_pred_proba",
        "label": "label",
    },
}  # fmt: skip
# what each peer computes, and no more
SAME: dict[str, dict[str, Any]] = {
    "nannyml": {
        "compat": "nannyml",
        "methods": {
            "continuous": ["jensen_shannon", "hellinger", "wasserstein", "kolmogorov_smirnov"],
            "categorical": ["jensen_shannon", "hellinger", "l_infinity", "chi2"],
            "quality": ["missing_values", "unseen_values", "numerical_range"],
            "blocks": ["statistics", "reconstruction_error", "cbpe", "realized_performance"],
            "outliers": False,
        },
    },
    "whylogs": {
        "alerts": {"threshold": "constant"},
        "methods": {
            "continuous": [],
            "categorical": [],
            "quality": ["missing_values", "wrong_type"],
            "blocks": ["statistics", "cardinality"],
            "outliers": False,
        },
    },
    "evidently": {
        "alerts": {"threshold": "constant"},
        "methods": {
            "continuous": ["wasserstein"],
            "categorical": ["jensen_shannon"],
            "quality": [],
            "blocks": ["statistics"],
            "outliers": False,
        },
    },
}
CHECKS: dict[str, Callable[[Files, int], str]] = {
    "nannyml": agreement.with_nannyml,
    "whylogs": agreement.with_whylogs,
    "evidently": agreement.with_evidently,
}


class Contest(NamedTuple):
    """A peer, the rows it is given, in chunks of so many, the gain aimed at, and how many pairs."""

    peer: str
    what: str
    rows: int
    chunk: int
    least: float
    pairs: int


CONTESTS = (
    Contest("nannyml", "NannyML 0.13.1, the same values", 200_000, 5_000, 10.0, 4),
    Contest("nannyml", "NannyML 0.13.1, the same values", 200_000, 1_000, 10.0, 3),
    Contest("nannyml", "NannyML 0.13.1, the same values", 1_000_000, 5_000, 10.0, 2),
    Contest("whylogs", "whylogs 1.6.4, profiles", 200_000, 5_000, 20.0, 5),
    Contest("evidently", "Evidently 0.7.23, drift report", 200_000, 5_000, 20.0, 1),
)


def measure(tell: Tell) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell("writing rows")
        write(folder, "reference", world.REFERENCE_ROWS, 1)
        for rows in {contest.rows for contest in CONTESTS}:
            write(folder, f"analysis-{rows}", rows, 2)
        lines, facts = [], []
        for contest in CONTESTS:
            found, fact = compare(folder, contest, tell)
            lines += found
            facts.append(fact)
    return Section(title="Peers", command="python -m tests.bench peers", lines=lines, facts=facts)


def write(folder: Path, name: str, rows: int, seed: int) -> None:
    """Rows under NannyML's customary names."""
    table = world.table(rows, seed)
    table = table.rename_columns({"prediction": "y_pred", "score": "y_pred_proba"})
    seconds = (table["ts"].to_numpy() * 1e6).round().astype("int64")
    place = table.schema.get_field_index("ts")
    table = table.set_column(place, "ts", pa.array(seconds).cast(pa.timestamp("us")))
    pa.parquet.write_table(table, folder / f"{name}.parquet")


def compare(folder: Path, contest: Contest, tell: Tell) -> tuple[list[Line], str]:
    """The lines of a peer, and what was found of the values."""
    peer, chunk = contest.peer, contest.chunk
    tell(f"{peer}: making its environment")
    python = python_of(peer)
    own = folder / f"{peer}-{contest.rows}-{chunk}"
    own.mkdir()
    windows = {"windows": [{"name": "chunk", "rows": chunk}]}
    config = own / "monitor.yaml"
    config.write_text(yaml.safe_dump(MODEL | windows | SAME[peer]), encoding="utf-8")
    reference, analysis = folder / "reference.parquet", folder / f"analysis-{contest.rows}.parquet"
    walls: tuple[list[float], list[float]] = [], []

    def ours() -> float:
        cost = run([sys.executable, "-m", "stream_monitor", "backtest", "--config", config,
                    "--reference", reference, "--events", analysis,
                    "--output", own / "ours.parquet"])  # fmt: skip
        return noted(cost, walls[0])

    def theirs() -> float:
        program = HERE / f"run_{peer}.py"
        return noted(run([python, program, reference, analysis, str(chunk), own]), walls[1])

    what = f"{contest.rows:,} rows in chunks of {chunk:,}"
    processor = turns(
        ours, theirs, number=contest.pairs, tell=lambda pair: tell(f"{peer}, {what}: {pair}")
    )
    fact = CHECKS[peer](Files(reference, analysis, own), chunk)
    return [
        Line(
            what=f"backtest, {what}, {how}",
            baseline=contest.what,
            unit="s",
            ours=mine,
            theirs=other,
            least=aim,
            gain=True,
        )
        for how, (mine, other), aim in (
            ("processor", processor, contest.least),
            ("wall", (walls[0][1:], walls[1][1:]), None),
        )
    ], fact


def noted(cost: Cost, walls: list[float]) -> float:
    """Processor time, the wall's kept beside."""
    walls.append(cost.wall)
    return cost.processor
