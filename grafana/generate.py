"""Writes the Grafana dashboards, and the runbook links of the Prometheus rules.

``python grafana/generate.py`` writes them; with ``--check`` it writes nothing, names what is not
current and ends with status 1 if there is any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from boards import feature, operations, overview, performance
from boards.panels import RUNBOOK
from grafana_foundation_sdk.cog.encoder import JSONEncoder

_HERE = Path(__file__).parent
_RULES = _HERE / "prometheus" / "rules.yml"
_LINK = re.compile(r"(- alert: (\w+)\n(?:(?!\s+- alert).*\n)*?\s+runbook_url:).*")


def dashboards() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file and text."""
    for module in (overview, feature, performance, operations):
        board = module.build().build()
        numbers = count(1)
        for panel in board.panels or []:
            panel.id_val = next(numbers)
        name = module.__name__.rpartition(".")[2]
        yield _HERE / "dashboards" / f"{name}.json", _json(board)


def _json(board: object) -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


def rules() -> str:
    """The rules with every alert linked to its part of the runbook."""
    return _LINK.sub(lambda m: f"{m[1]} {RUNBOOK}#{m[2].lower()}", _RULES.read_text())


def main() -> int:
    stale = [
        (path, text)
        for path, text in [*dashboards(), (_RULES, rules())]
        if not path.exists() or path.read_text() != text
    ]
    if "--check" in sys.argv:
        for path, _ in stale:
            print(f"not current: {path}; run `python grafana/generate.py`", file=sys.stderr)  # noqa: T201
        return int(bool(stale))
    for path, text in stale:
        path.write_text(text)
        print(f"wrote {path}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
