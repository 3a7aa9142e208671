"""Reads the files under grafana/ as Prometheus and Grafana would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parents[1]
GRAFANA = ROOT / "grafana"
RULES = GRAFANA / "prometheus" / "rules.yml"


@dataclass(frozen=True)
class Selector:
    """One selector of a PromQL expression: metric name and matchers (operator, value) by label."""

    name: str
    matchers: dict[str, tuple[str, str]]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def boards() -> dict[str, dict[str, Any]]:
    """The dashboards by file name."""
    files = sorted((GRAFANA / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its panels without the rows, which must not hide any."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            assert not panel["panels"]
        else:
            yield panel


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(RULES)["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def filled(expr: str, **variables: str) -> str:
    """The expression as Grafana sends it, with its own variables for a 15 s scrape."""
    variables = {"__rate_interval": "1m", "__range": "1h", "__interval": "15s"} | variables
    for name in sorted(variables, key=len, reverse=True):
        expr = expr.replace(f"${name}", variables[name])
    return expr


def selectors(expr: str) -> list[Selector]:
    """All selectors of an expression; ValueError if it is not PromQL."""
    found = []
    stack: list[Any] = [promql_parser.parse(expr)]
    while stack:
        node = stack.pop()
        match type(node).__name__:
            case "VectorSelector":
                matchers = {m.name: (str(m.op), m.value) for m in node.matchers.matchers}
                found.append(Selector(node.name, matchers))
            case "MatrixSelector":
                stack.append(node.vector_selector)
            case "BinaryExpr":
                stack += [node.lhs, node.rhs]
            case "Call":
                stack += node.args
            case "AggregateExpr" | "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
                stack.append(node.expr)
            case "NumberLiteral" | "StringLiteral":
                pass
            case other:
                raise NotImplementedError(f"PromQL node {other} in {expr}")
    return found
