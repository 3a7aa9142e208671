"""NannyML on two Parquet files: ``python run_nannyml.py REFERENCE ANALYSIS CHUNK OUT``.

Runs in an environment of its own, see :mod:`tests.bench.peers.environment`. Every result goes to
OUT as a Parquet file of the calculator's name, as NannyML has it; the levels of its column names
are joined by ``|``.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # before the import

import nannyml as nml
import pandas as pd

CLASSIFICATION = (
    "roc_auc", "f1", "precision", "recall", "specificity", "accuracy", "average_precision",
    "confusion_matrix",
)  # fmt: skip


def main(reference: Path, analysis: Path, chunk: int, out: Path) -> None:
    warnings.simplefilter("ignore")  # pandas on what it will change
    first, then = pd.read_parquet(reference), pd.read_parquet(analysis)
    for name, calculator in _calculators(first, chunk).items():
        calculator.fit(first)
        run = calculator.estimate if name == "cbpe" else calculator.calculate
        found = run(then).filter(period="analysis").to_df()
        found.columns = ["|".join(levels) for levels in found.columns]
        found.to_parquet(out / f"{name}.parquet")


def _calculators(reference: pd.DataFrame, chunk: int) -> dict[str, Any]:
    """Those whose values a backtest gives, too."""
    features = [c for c in reference.columns if c.startswith(("feature_", "category_"))]
    continuous = [c for c in features if pd.api.types.is_float_dtype(reference[c])]
    categorical = [c for c in features if c not in continuous]
    chunks: dict[str, Any] = {"timestamp_column_name": "ts", "chunk_size": chunk}
    model: dict[str, Any] = {
        "y_pred": "y_pred", "y_pred_proba": "y_pred_proba", "y_true": "label",
        "problem_type": "classification_binary", "metrics": list(CLASSIFICATION),
    }  # fmt: skip
    return {
        "univariate_drift": nml.UnivariateDriftCalculator(
            column_names=[*features, "y_pred_proba", "y_pred", "label"],
            treat_as_categorical=["y_pred", "label"],
            continuous_methods=[
                "jensen_shannon", "hellinger", "wasserstein", "kolmogorov_smirnov",
            ],
            categorical_methods=["jensen_shannon", "hellinger", "l_infinity", "chi2"],
            **chunks,
        ),
        "missing_values": nml.MissingValuesCalculator(
            column_names=features, normalize=True, **chunks
        ),
        "unseen_values": nml.UnseenValuesCalculator(
            column_names=categorical, normalize=True, **chunks
        ),
        "numerical_range": nml.NumericalRangeCalculator(
            column_names=continuous, normalize=True, **chunks
        ),
        "stats_avg": nml.SummaryStatsAvgCalculator(column_names=continuous, **chunks),
        "stats_sum": nml.SummaryStatsSumCalculator(column_names=continuous, **chunks),
        "stats_std": nml.SummaryStatsStdCalculator(column_names=continuous, **chunks),
        "stats_median": nml.SummaryStatsMedianCalculator(column_names=continuous, **chunks),
        "stats_rowcount": nml.SummaryStatsRowCountCalculator(**chunks),
        "reconstruction": nml.DataReconstructionDriftCalculator(column_names=features, **chunks),
        "cbpe": nml.CBPE(**model, **chunks),
        "performance": nml.PerformanceCalculator(**model, **chunks),
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
