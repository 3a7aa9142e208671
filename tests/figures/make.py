"""Packs NannyML's result tables into the committed figures: ``python make.py FOLDER``.

FOLDER holds what NannyML 0.13.1 gave for its sample data sets with chunks of 5,000 rows and its
defaults otherwise: ``nannyml_<data set>_<calculator>.csv``, all with the same columns, numbers with
12 significant digits. They become one table, ``nannyml.csv.gz``; the calibrator's knots and the
rankings, which have columns of their own, are copied. The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = "dataset,calculator,column,metric,chunk_index,"
COPIED = (
    "nannyml_car_loan_cbpe_isotonic.csv",
    "nannyml_car_loan_rank_alert_count.csv",
    "nannyml_car_loan_rank_correlation.csv",
)


def main(folder: Path) -> None:
    heading, lines = "", []
    for path in sorted(folder.glob("nannyml_*.csv")):
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        if first.startswith(HEADER):
            if heading not in ("", first):
                raise SystemExit(f"{path}: its columns are not those of the tables before it")
            heading = first
            lines += rest
    if not lines:
        raise SystemExit(f"{folder}: no table of NannyML's is in it; name the folder that has them")
    text = "\n".join([heading, *lines, ""])
    packed = gzip.compress(text.encode("utf-8"), 9, mtime=0)
    (HERE / "nannyml.csv.gz").write_bytes(packed)
    for name in COPIED:
        (HERE / name).write_bytes((folder / name).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
