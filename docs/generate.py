"""Writes the reference pages from the code: ``python docs/generate.py``, ``--check`` in tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stream_monitor.config import model
from stream_monitor.config.units import format_duration, format_size
from stream_monitor.decode.rejects import REASONS
from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.expose.catalogue import CATALOGUE

HERE = Path(__file__).parent

_INTRO = """\
# Configuration

One YAML file. `stream-monitor check-config --config monitor.yaml` reports every error at once, each
with its key, its value and the remedy, and prints the worst case in bytes. Durations are written
with their unit (`30s`, `10m`, `1h30m`, `7d`), sizes too (`512MiB`). Relative paths are taken from
the file's own folder. An unknown key is an error.

The smallest file:

```yaml
models:
  - name: payments
    reference: payments.ref
source:
  type: follow
  path: /var/log/model-server/events.jsonl
windows:
  - name: hour
    size: 1h
```

An event is one JSON object; `mapping` says where its parts are, by default here:

```json
{"id": "a1", "model": "payments", "version": "1", "ts": 1700000000.5,
 "features": {"amount": 12.5, "country": "FR"}, "prediction": 1, "score": 0.83}
```

Times are epoch seconds, milliseconds, microseconds or nanoseconds (told apart by their size), or
RFC 3339; text without an offset is UTC.

This page is generated from `stream_monitor/config/model.py`.
"""

_METRICS = """\
# Metrics

Everything under `/metrics`, besides `process_*` and `python_*` of the Prometheus client. Labels:
`model`, `version` (of the model, as configured), `segment` (empty: all rows), `window` (its name in
the configuration), `feature` (empty: the whole model; `prediction` and `score` are the model's
outputs), `metric` (the method, as in `docs/methods.md`), `maturity` (how long predictions had been
waiting for labels, such as `7d`; empty where labels come with the events).

A window's values are those of the **newest closed window** and keep standing until the next one
closes: `window_end_timestamp_seconds` says which it is. `live_*` are of the window that is still
filling; they are never judged. Where a value does not apply there is no series. At most
`limits.max_series` series of values are exposed; what is left out is counted in `series_dropped`.

`wasserstein` is in the feature's own unit, all other drift metrics have none: aggregate `drift_*`
only within one `metric`.

This page is generated from `stream_monitor/expose/catalogue.py`.
"""


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    if field.metadata and any("parse_duration" in repr(m) for m in field.metadata):
        return "duration"
    if field.metadata and any("parse_size" in repr(m) for m in field.metadata):
        return "size"
    options = get_args(kind)
    if options and all(isinstance(o, str) for o in options):
        return ", ".join(f"`{o}`" for o in options)
    text = str(getattr(kind, "__name__", kind) if not options else kind)
    if any("masked" in repr(part) for part in (kind, *field.metadata)):
        return "mapping"
    for long, short in (("pathlib.Path", "path"), ("typing.", ""), ("| None", "")):
        text = text.replace(long, short)
    if "parse_duration" in text:
        return "list of durations" if text.startswith("list") else "duration"
    words = {"str": "text", "int": "number", "float": "number", "bool": "true, false",
             "Path": "path", "list[str]": "list of text"}  # fmt: skip
    return words.get(text.strip(), text.strip())


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, dict | BaseModel):
        return ""
    if value == "":
        return "empty"
    if isinstance(value, list) and _type(field) == "list of durations":
        value = [format_duration(v) for v in value]
    if isinstance(value, list):
        return ", ".join(f"`{v}`" for v in value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if _type(field) == "duration":
        value = format_duration(value)
    elif _type(field) == "size":
        value = format_size(value).replace(" ", "")
    return f"`{value}`"


def _section(title: str, section: type[BaseModel]) -> list[str]:
    lines = [f"## {title}", "", " ".join((section.__doc__ or "").split()), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        cells = (f"`{name}`", _type(field), _default(field), field.description or "")
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return [*lines, ""]


def configuration() -> str:
    """``docs/configuration.md``."""
    lines = [_INTRO]
    for title, section in (
        ("models[]", model.ModelConfig),
        ("source (type: kafka)", model.KafkaSource),
        ("source (type: files)", model.FilesSource),
        ("source (type: follow)", model.FollowSource),
        ("source (type: stdin)", model.StdinSource),
        ("mapping", model.MappingConfig),
        ("labels", model.LabelsConfig),
        ("labels.source (type: kafka; or files, follow as above)", model.KafkaLabels),
        ("labels.mapping", model.LabelMapping),
        ("windows[]", model.WindowConfig),
        ("time", model.TimeConfig),
        ("methods", model.MethodsConfig),
        ("segments[]", model.SegmentConfig),
        ("detectors[]", DetectorConfig),
        ("alerts", model.AlertsConfig),
        ("alerts.overrides[]", model.ThresholdOverride),
        ("reference", model.ReferenceConfig),
        ("reference.columns.NAME", model.ColumnConfig),
        ("store (type: sqlite)", model.SqliteStore),
        ("store (type: kafka)", model.KafkaStore),
        ("http", model.HttpConfig),
        ("limits", model.LimitsConfig),
        ("log", model.LogConfig),
    ):
        lines += _section(title, section)
    return "\n".join(lines)


def metrics() -> str:
    """``docs/metrics.md``."""
    lines = [_METRICS, "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in CATALOGUE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.full_name}` | {metric.type} | {labels} | {metric.help} |")
    lines += ["", "## Reasons of `stream_monitor_events_rejected_total`", ""]
    lines += ["| reason | meaning |", "|---|---|"]
    lines += [f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()]
    return "\n".join(lines) + "\n"


PAGES = {"configuration.md": configuration, "metrics.md": metrics}


def stale() -> list[str]:
    """Pages that are not what the code says."""
    return [
        name
        for name, page in PAGES.items()
        if not (HERE / name).exists() or (HERE / name).read_text(encoding="utf-8") != page()
    ]


def main() -> int:
    if "--check" in sys.argv:
        if names := stale():
            print(f"stale: {', '.join(names)}; run python docs/generate.py", file=sys.stderr)
        return bool(names)
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
