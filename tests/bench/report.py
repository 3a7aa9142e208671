"""From lines to ``docs/performance.md``: tables between marks, and a picture."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from tests.bench.lines import Line, Section

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA, PAGE, PICTURE = (DOCS / f"performance.{end}" for end in ("json", "md", "svg"))
_ROW, _LEFT, _RIGHT, _TOP = 26, 560, 330, 40  # pixels


def read() -> dict[str, Section]:
    """What has been measured, by name."""
    if not DATA.exists():
        return {}
    return msgspec.json.decode(DATA.read_bytes(), type=dict[str, Section])


def write(found: Mapping[str, Section]) -> None:
    data = msgspec.json.encode(found, order="sorted")
    DATA.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def machine() -> str:
    """The processor and how many of it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.+)", text)
    return f"{os.cpu_count()} × {model[1] if model else 'unknown processor'}"


def render(found: Mapping[str, Section], names: Sequence[str]) -> None:
    """Write the tables into the page, each between its marks, and draw the picture."""
    page = PAGE.read_text(encoding="utf-8")
    for name in names:
        if name not in found:
            continue
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, mark, rest = page.partition(begin)
        _, close, after = rest.partition(end)
        if not mark or not close:
            raise SystemExit(f"{PAGE}: put {begin} and {end} where the table of {name} is to stand")
        page = f"{before}{begin}\n{_table(found[name])}\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")
    aimed = [line for n in names if n in found for line in found[n].lines if line.met is not None]
    PICTURE.write_text(_picture(aimed), encoding="utf-8")


def _table(section: Section) -> str:
    rows = [
        "| what | beside | ours | theirs | ratio | quartiles | target |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for line in section.lines:
        ours, theirs = (f"{number(statistics.median(v))} {line.unit}" for v in _series(line))
        low, high = _quartiles(line.ratios)
        what = f"{line.what} ({line.note})" if line.note else line.what
        rows.append(
            f"| {what} | {line.baseline} | {ours} | {theirs} | **{number(line.ratio)}** | "
            f"{number(low)} … {number(high)} | {_target(line)} |"
        )
    facts = "".join(f"\n- {fact}" for fact in section.facts)
    told = f"`{section.command}`, {section.machine}, {section.date}."
    return "\n".join(rows) + f"\n{facts}\n\n{told}" if facts else "\n".join(rows) + f"\n\n{told}"


def _series(line: Line) -> tuple[list[float], list[float]]:
    return line.ours, line.theirs


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _target(line: Line) -> str:
    if line.met is None:
        return "gain" if line.gain else ""
    wanted = f"≤ {line.most:g}" if line.most is not None else f"≥ {line.least:g}"
    return f"{wanted} {'✓' if line.met else '✗'}"


def number(value: float) -> str:
    """Three digits, as people read them."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _picture(lines: Sequence[Line]) -> str:
    """Each target at one place, and how far each ratio is from it; longer is better."""
    height = _TOP + _ROW * len(lines) + 10
    width = _LEFT + _RIGHT + 150
    middle = _LEFT + _RIGHT / 2
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{middle}" y="16" text-anchor="middle" fill="#333">target</text>',
        f'<line x1="{middle}" y1="22" x2="{middle}" y2="{height - 6}" stroke="#333"/>',
    ]
    for i, line in enumerate(lines):
        y = _TOP + i * _ROW
        aim = line.most if line.most is not None else line.least or 1.0
        # how many times better than the target, between half and twice
        better = aim / line.ratio if line.most is not None else line.ratio / aim
        length = min(max(better, 0.05), 2.0) * _RIGHT / 2
        colour = "#2e7d32" if line.met else "#c62828"
        # a peer is the point of a gain beside it
        name = f"{line.what}, {line.baseline}" if line.gain else line.what
        sign = "≤" if line.most is not None else "≥"
        parts += [
            (
                f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end" fill="#111">'
                f"{escape(name)}</text>"
            ),
            (
                f'<rect x="{_LEFT}" y="{y}" width="{length:.0f}" height="16" fill="{colour}" '
                'fill-opacity="0.75"/>'
            ),
            (
                f'<text x="{_LEFT + length + 6:.0f}" y="{y + 12}" fill="#111">'
                f"{number(line.ratio)} × ({sign} {aim:g})</text>"
            ),
        ]
    return "\n".join([*parts, "</svg>", ""])
