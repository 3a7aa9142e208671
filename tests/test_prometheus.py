"""Kafka → the real service → a real Prometheus → a real Alertmanager → a webhook."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer

from tests import worlds
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.observability import alerts, boards, filled, panels, rules, selectors
from tests.prometheus_server import Alertmanager, Prometheus, Webhook, fetch
from tests.service import Service

TOPIC = "loans-for-prometheus"
OF_REPLICAS = "job:stream_monitor_aggregators:sum"  # there is none with a local store
BATCH, PAUSE = 60, 0.1  # records, seconds: ten minutes of event time each
# what Grafana puts in for "All", and one feature
ALL = dict.fromkeys(("job", "instance", "model", "window", "metric"), ".+")
CHOSEN = ALL | {"version": ".*", "feature": "income", "__rate_interval": "10s"}


def broken(line: bytes, number: int) -> bytes:
    """One event in five with a missing, an unseen and a wrongly typed value; some are no JSON.

    One in seven has no label.
    """
    if number % 50 == 0:
        return b"{"
    event = orjson.loads(line)
    if number % 7 == 3:
        del event["label"]
    if number % 5:
        return orjson.dumps(event)
    event["features"] |= {"income": None, "channel": "kiosk", "age": "forty"}
    return orjson.dumps(event)


def send(broker: str, stop: threading.Event) -> None:
    """Events whose income has moved, at a steady pace, until stopped."""
    producer = KafkaProducer(bootstrap_servers=broker)
    lines = worlds.events(60_000, 5, shift=1.0)
    for first in range(0, len(lines), BATCH):
        for number in range(first, first + BATCH):
            stamp = (worlds.START + 10 * number) * 1_000
            producer.send(TOPIC, broken(lines[number], number), timestamp_ms=stamp)
        producer.flush()
        if stop.wait(PAUSE):
            break
    producer.close()


@pytest.fixture(scope="module")
def service(
    kafka_broker: KafkaBroker | ExternalBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """The service on a topic into which drifting traffic flows."""
    folder = tmp_path_factory.mktemp("service")
    worlds.build(folder)
    create_topic(kafka_broker, TOPIC, partitions=1)
    source = {
        "type": "kafka",
        "bootstrap_servers": kafka_broker.bootstrap_servers,
        "topics": [TOPIC],
        "partitions": 1,
    }
    stop = threading.Event()
    sender = threading.Thread(target=send, args=(kafka_broker.bootstrap_servers, stop))
    detector = {"name": "ages", "method": "adwin", "series": "statistics/mean/age"}
    labels = {"maturities": ["1m", "30m"]}
    config = worlds.raw_config(source=source, detectors=[detector], labels=labels)
    with Service(folder, config) as running:
        sender.start()
        try:
            yield running
        finally:
            stop.set()
            sender.join()


@pytest.fixture(scope="module")
def monitor_url(service: Service) -> str:
    return service.url


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with Webhook() as listening:
        yield listening


@pytest.fixture(scope="module")
def prometheus(
    monitor_url: str, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        Alertmanager(folder, webhook.url) as alertmanager,
        Prometheus(folder, monitor_url, alertmanager.address) as server,
    ):
        yield server


def test_promtool_finds_no_fault_with_the_metrics(monitor_url: str, prometheus: Prometheus) -> None:
    prometheus.wait_for("a window", lambda: prometheus.query("stream_monitor_window_rows"))
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fetch(f"{monitor_url}/metrics"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_scrapes_succeed(prometheus: Prometheus) -> None:
    (up,) = prometheus.wait_for("a scrape", lambda: prometheus.query('up{job="stream-monitor"}'))
    assert up["value"][1] == "1"


@pytest.mark.parametrize("name", boards())
def test_no_panel_is_empty(prometheus: Prometheus, name: str) -> None:
    for panel in panels(boards()[name]):
        for target in panel["targets"]:
            expr = filled(target["expr"], **CHOSEN)
            prometheus.wait_for(f"{panel['title']}: {expr}", partial(prometheus.query, expr))


@pytest.mark.parametrize("name", boards())
def test_no_variable_is_empty(prometheus: Prometheus, name: str) -> None:
    for variable in boards()[name]["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("query", ""))
        if found:
            expr = f"count by ({found[2]}) ({filled(found[1], **CHOSEN)})"
            (first, *_) = prometheus.wait_for(expr, partial(prometheus.query, expr))
            assert first["metric"][found[2]]


def test_every_rule_is_evaluated_on_series_that_are_there(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        found = prometheus.rules()
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = prometheus.wait_for("the rules", evaluated)
    assert [r["name"] for r in found] == [r.get("alert") or r["record"] for r in rules()]
    assert {r["name"]: r.get("lastError") for r in found if r["health"] != "ok"} == {}
    for name in {s.name for rule in rules() for s in selectors(rule["expr"])} - {OF_REPLICAS}:
        prometheus.wait_for(name, partial(prometheus.query, name))


def test_only_alerts_that_are_true_fire(prometheus: Prometheus) -> None:
    expr = 'count by (alertname) (ALERTS{alertstate=~"pending|firing"})'
    wanted = {"StreamMonitorFeatureDrift", "StreamMonitorQuality"}

    def seen() -> set[str]:
        return {sample["metric"]["alertname"] for sample in prometheus.query(expr)}

    prometheus.wait_for("the alerts", lambda: wanted <= seen())
    # many values are missing, so the rows as a whole are unusual too
    also = {"StreamMonitorOutliers", "StreamMonitorMultivariateDrift"}
    assert seen() - wanted <= also


def test_alertmanager_delivers_value_threshold_rows_feature_and_runbook(
    service: Service, prometheus: Prometheus, webhook: Webhook
) -> None:
    def delivered() -> dict[str, Any] | None:
        named = webhook.alerts("StreamMonitorFeatureDrift")
        return next((a for a in named if a["labels"]["feature"] == "income"), None)

    alert = prometheus.wait_for("a notification", delivered)
    labels, notes = alert["labels"], alert["annotations"]
    assert labels["severity"] == "warning"
    told = re.fullmatch(
        r"Feature income of model loans 1, window hour: (\w+) is (\S+), "
        r"its threshold (\S+), on (\d+) rows\. .+: \d+\.\d% → \d+\.\d% .*",
        notes["description"],
    )
    assert told, notes["description"]
    assert told[1] == labels["metric"]
    series = f'feature="income",metric="{labels["metric"]}"'
    # here a window closes several times a second and may be revised, and a scrape may come between
    # Prometheus' queries for the value, its threshold and the rows: each is one that was scraped
    for said, name, of in zip(
        told.groups()[1:4],
        ("drift_score", "drift_threshold", "window_rows"),
        (series, series, 'window="hour"'),
        strict=True,
    ):
        samples = prometheus.query(f"stream_monitor_{name}{{{of}}}[1h]")
        assert float(said) in {float(f"{float(v):.4g}") for s in samples for _, v in s["values"]}
    windows = service.get(f"/api/v1/windows?feature=income&metric={labels['metric']}&state=closed")
    assert any(window["alert"] for window in windows["windows"])
    (rule,) = (r for r in alerts() if r["alert"] == "StreamMonitorFeatureDrift")
    assert notes["runbook_url"] == rule["annotations"]["runbook_url"]
    assert notes["summary"] == rule["annotations"]["summary"]
    groups = [n["groupLabels"] for n in webhook.notifications]
    assert {
        "alertname": "StreamMonitorFeatureDrift",
        "job": "stream-monitor",
        "model": "loans",
        "version": "1",
        "window": "hour",
    } in groups


def test_quality_alerts_name_what_is_broken(prometheus: Prometheus, webhook: Webhook) -> None:
    wanted = {
        ("income", "missing_values"),
        ("age", "wrong_type"),
        ("channel", "unseen_values"),
    }

    def told() -> bool:
        named = webhook.alerts("StreamMonitorQuality")
        return wanted <= {(a["labels"]["feature"], a["labels"]["metric"]) for a in named}

    assert prometheus.wait_for("the notifications", told)
    for alert in webhook.alerts("StreamMonitorQuality"):
        assert alert["annotations"]["description"].startswith(
            f"Feature {alert['labels']['feature']}"
        )
