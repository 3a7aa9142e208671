"""Metrics, probes, the API and the status page, over HTTP and in a real browser."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from stream_monitor.errors import StreamMonitorError
from stream_monitor.expose.catalogue import CATALOGUE
from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.snapshot import (
    FiringAlert,
    JoinView,
    ModelView,
    OutcomeView,
    ServiceView,
    Snapshot,
    WindowView,
)
from stream_monitor.labels.join import TOLD
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import Role
from stream_monitor.store.base import Checkpoint, DeadLetter
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.values import COLUMNS, Value, WindowResult
from stream_monitor.watch import watch
from tests import worlds
from tests.browser import chromium

DAY = 86_400_000_000
BEGIN = worlds.START * 1_000_000


def window(index: int, score: float, *, closed: bool = True) -> WindowResult:
    """A window in which ``income`` has this Jensen–Shannon distance."""
    alert = score > 0.1 if closed else None
    values = (
        Value("", "statistics", "rows_count", 4_000.0),
        Value("income", "drift", "jensen_shannon", score, 0.001, upper_threshold=0.1, alert=alert),
        Value("age", "drift", "jensen_shannon", 0.02, 0.5, upper_threshold=0.1,
              alert=False if closed else None),
        Value("income", "quality", "missing_values", 0.02, lower_threshold=0.01,
              upper_threshold=0.05, alert=False if closed else None),
        Value("", "outliers", "outlier_share", 0.01, upper_threshold=0.02,
              alert=False if closed else None),
        *(Value(feature, family, metric, 0.9, 0.5, 0.01, 0.87, 0.93, 0.8, 0.95,
                False if closed else None)
          for feature, family, metric in (
              ("", "estimated_performance", "roc_auc"), ("", "realized_performance", "roc_auc"),
              ("", "multivariate_drift", "reconstruction_error"), ("age", "statistics", "mean"))),
        Value("age", "detectors", "adwin", 0.0, upper_threshold=0.0,
              alert=False if closed else None),
    )  # fmt: skip
    start = BEGIN + index * DAY
    return WindowResult("loans", "1", "", "day", index, start, start + DAY, 4_000, closed, values)


def outcome(index: int) -> WindowResult:
    """What labels say of a window of :func:`window`."""
    values = tuple(
        Value(feature, family, metric, value, 0.5, 0.01, -0.07, 0.95, -0.1, 0.8, False)
        for feature, family, metric, value in (
            ("", "realized_performance", "roc_auc", 0.85),
            ("", "covariate_effect", "roc_auc", -0.01), ("", "concept_effect", "roc_auc", -0.04),
            ("score", "concept_drift", "calibration_trend", 0.7),
            ("score", "labels", "selection", 0.6), ("", "estimator", "evidence", 0.5),
        )
    )  # fmt: skip
    found = window(index, 0.05)
    return replace(found, values=values, maturity="1h", label_share=0.75)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Ten quiet windows, one with drift, one that fills; over a real reference."""
    world = worlds.build(tmp_path_factory.mktemp("world"))
    (model,), _ = watch(world.config(), "test")
    history = (*(window(i, 0.03 + 0.002 * (i % 3)) for i in range(10)), window(10, 0.25))
    counts = Counted(model.profile.layout, model.profile.chunks[0]).columns()
    mature = tuple(outcome(i) for i in range(9))
    view = WindowView(
        "day", "1d", history[-1], counts, window(11, 0.2, closed=False), counts, history,
        (OutcomeView("1h", mature[-1], mature), OutcomeView("7d", None, ())),
    )  # fmt: skip
    service = ServiceView(
        version="0.1.0", source="follow events.jsonl", ready=True,
        heartbeat=time.time_ns() // 1_000, watermark=BEGIN + 11 * DAY, partitions=("p",),
        records={"p": 44_000}, bytes={"p": 9_000_000}, lost={"p": 3},
        accepted={("loans", "1"): 44_000},
        late={("loans", "1"): 3},
        expired={("loans", "1"): 0}, rejected={"not_json": 2, "clock_skew": 0}, lag={"p": 7},
        join=JoinView(
            {what: {"loans": 5} for what in TOLD},
            {"loans": ((1, 2, 3, *(0,) * 8, 4), 86_400_000_000)}, {"labels": 9}, 100, 10,
        ),
    )  # fmt: skip
    firing = FiringAlert(
        "loans", "1", "", "day", "income", "drift", "jensen_shannon", 0.25, float("nan"), 0.1,
        4_000, BEGIN + 11 * DAY, BEGIN + 11 * DAY, "where it changed " * 20,
    )  # fmt: skip
    cells = model.profile.cells
    shown = ModelView("loans", "1", "", "ab12", 4_000, cells, (view,))
    return Snapshot(service, (shown,), (firing,))


class Site:
    """A running server with its board and store."""

    def __init__(self, max_series: int = 20_000) -> None:
        self.board = Board()
        self.store = SqliteStore(None, results_retention_windows=100, max_dead_letters=10)
        self.server = Server(self.board, self.store, "127.0.0.1", 0, max_series)
        self.url = f"http://127.0.0.1:{self.server.start()}"

    def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers

    def close(self) -> None:
        self.server.stop()
        self.store.close()


@pytest.fixture
def site(snapshot: Snapshot) -> Iterator[Site]:
    site = Site()
    site.board.publish(snapshot)
    site.store.commit(
        Checkpoint(
            results=list(snapshot.models[0].windows[0].history),
            dead_letters=[DeadLetter("p", "p@5", "not_json", "cut off", b"\xff{", b"k")],
        )
    )
    yield site
    site.close()


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            found.setdefault(s.name, {})[tuple(sorted(s.labels.items()))] = s.value
    return found


def test_explanations_of_alerts_are_bounded(site: Site, snapshot: Snapshot) -> None:
    (firing,) = snapshot.alerts
    many = tuple(replace(firing, feature=f"f{i}") for i in range(80))
    site.board.publish(replace(snapshot, alerts=(*many, *many)))
    text = site.get("/metrics")[1]
    lines = [x for x in text.splitlines() if x.startswith("stream_monitor_alert_info{")]
    assert len(lines) == 50
    assert all('…"' in line for line in lines)
    texts = [line.split('explanation="')[1].partition('"')[0] for line in lines]
    assert max(map(len, texts)) == 160


def test_every_metric_is_in_the_catalogue_and_promtool_finds_no_fault(site: Site) -> None:
    with site.server.timer.step("decode"):
        pass
    status, text, _ = site.get("/metrics")
    assert status == 200
    names = {f.name for f in text_string_to_metric_families(text)}
    ours = {n for n in names if n.startswith("stream_monitor_") and not n.endswith("_created")}
    assert ours == {m.full_name.removesuffix("_total") for m in CATALOGUE.values()}
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert "stream_monitor_" not in done.stdout + done.stderr


def test_the_metrics_are_those_of_the_newest_closed_window(site: Site) -> None:
    found = samples(site.get("/metrics")[1])
    labels = {"model": "loans", "version": "1", "segment": "", "window": "day"}
    drift = tuple(sorted((labels | {"feature": "income", "metric": "jensen_shannon"}).items()))
    assert found["stream_monitor_drift_score"][drift] == 0.25
    assert found["stream_monitor_drift_threshold"][drift] == 0.1
    assert found["stream_monitor_drift_alert"][drift] == 1
    assert found["stream_monitor_live_drift_score"][drift] == 0.2
    quality = tuple(sorted((labels | {"feature": "income", "metric": "missing_values"}).items()))
    assert found["stream_monitor_quality_lower_threshold_ratio"][quality] == 0.01
    assert quality not in found["stream_monitor_drift_score"]
    assert found["stream_monitor_window_rows"][tuple(sorted(labels.items()))] == 4_000
    rejected = found["stream_monitor_events_rejected_total"]
    assert rejected == {(("reason", "not_json"),): 2, (("reason", "clock_skew"),): 0}


def test_what_labels_tell_carries_its_maturity(site: Site) -> None:
    found = samples(site.get("/metrics")[1])
    place = {"model": "loans", "version": "1", "segment": "", "window": "day", "maturity": "1h"}
    value = place | {"feature": "", "metric": "roc_auc"}
    assert found["stream_monitor_realized_performance"][tuple(sorted(value.items()))] == 0.85
    assert found["stream_monitor_concept_effect"][tuple(sorted(value.items()))] == -0.04
    share = found["stream_monitor_outcome_label_share_ratio"][tuple(sorted(place.items()))]
    assert share == 0.75
    delays = found["stream_monitor_label_delay_seconds_bucket"]
    by_bound = {float(dict(labels)["le"]): n for labels, n in delays.items()}
    assert [by_bound[b] for b in (0.0, 60.0, 600.0, 3_600.0, float("inf"))] == [1, 3, 6, 6, 10]
    key = (("model", "loans"),)
    assert found["stream_monitor_label_delay_seconds_sum"][key] == 86_400
    joined = found["stream_monitor_labels_total"][("model", "loans"), ("result", "joined")]
    assert joined == 5


def test_the_page_splits_a_change_and_says_how_many_labels_are_in(site: Site) -> None:
    (early, late) = json.loads(site.get("/api/v1/status")[1])["view"]["outcomes"]
    assert (early["maturity"], early["share"]) == ("1h", 0.75)
    (effect,) = early["effects"]
    assert effect["reference"] == pytest.approx(0.9)
    assert "-0.01 ± 0.01 from the inputs, -0.04 ± 0.01 from what they mean" in effect["words"]
    assert late == {"maturity": "7d", "closed": None}


def test_series_are_bounded_and_what_is_left_out_is_counted(snapshot: Snapshot) -> None:
    site = Site(max_series=5)
    site.board.publish(snapshot)
    found = samples(site.get("/metrics")[1])
    site.close()
    assert found["stream_monitor_series"][()] == 5
    assert found["stream_monitor_series_dropped"][()] > 5


def test_twenty_thousand_series_are_rendered_well_under_a_second(snapshot: Snapshot) -> None:
    (model,) = snapshot.models
    (view,) = model.windows
    values = tuple(
        Value(f"f{i}", "drift", "psi", 0.1, 0.5, upper_threshold=0.2, alert=False)
        for i in range(5_000)
    )
    closed = replace(window(10, 0.25), values=values)
    wide = replace(view, closed=closed, filling=None, outcomes=())
    site = Site()
    site.board.publish(replace(snapshot, models=(replace(model, windows=(wide,)),)))
    site.get("/metrics")
    begin = time.perf_counter()
    found = samples(text := site.get("/metrics")[1])
    took = time.perf_counter() - begin
    site.close()
    assert text.count("\n") > 20_000
    assert found["stream_monitor_series"][()] == 20_000
    assert found["stream_monitor_series_dropped"][()] == 3
    assert took < 5  # with parsing, on a busy machine; rendering alone takes about 0.2 s


def test_metrics_come_as_openmetrics_and_compressed_where_asked(site: Site) -> None:
    _, text, headers = site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    request = urllib.request.Request(  # noqa: S310
        f"{site.url}/metrics", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.headers["Content-Encoding"] == "gzip"
        assert b"stream_monitor_ready 1.0\n" in gzip.decompress(answer.read())


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/metrics", "/api/v1/status", "/api/v1/windows", "/nowhere"]
)
def test_every_answer_forbids_foreign_content_and_caching(site: Site, path: str) -> None:
    _, _, headers = site.get(path)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_health_follows_the_heartbeat_and_readiness_the_state(
    site: Site, snapshot: Snapshot
) -> None:
    assert site.get("/-/healthy")[0] == site.get("/-/ready")[0] == 200
    old = replace(snapshot.service, heartbeat=snapshot.service.heartbeat - 40_000_000, ready=False)
    site.board.publish(replace(snapshot, service=old))
    assert site.get("/-/healthy")[0] == site.get("/-/ready")[0] == 503


def test_windows_have_the_columns_of_a_backtest_and_the_filling_one_is_not_judged(
    site: Site,
) -> None:
    answer = json.loads(site.get("/api/v1/windows")[1])
    assert answer["columns"] == list(COLUMNS)
    assert answer["watermark"] == "2023-11-26T00:00:00Z"
    assert len(answer["windows"]) == 12 * 10
    closed = json.loads(
        site.get("/api/v1/windows?state=closed&feature=income&metric=jensen_shannon")[1]
    )
    assert [r["alert"] for r in closed["windows"]] == [False] * 10 + [True]
    filling = json.loads(site.get("/api/v1/windows?state=filling")[1])["windows"]
    assert {r["alert"] for r in filling} == {None}
    rows = list(csv.DictReader(io.StringIO(site.get("/api/v1/windows?format=csv")[1])))
    assert len(rows) == 120
    lines = site.get("/api/v1/windows?format=jsonl&limit=2&state=closed")[1].splitlines()
    assert [json.loads(x)["window_index"] for x in lines] == [9] * 10 + [10] * 10


@pytest.mark.parametrize(
    "query",
    [
        "colour=red",
        "colour=red&state=filling",
        "state=open",
        "format=xml",
        "since=soon",
        "limit=many",
    ],
)
def test_a_wrong_question_gets_an_answer_that_helps(site: Site, query: str) -> None:
    status, text, _ = site.get(f"/api/v1/windows?{query}")
    assert status == 400
    assert query.partition("=")[0] in json.loads(text)["error"]


@pytest.mark.parametrize(
    "path",
    [
        f"/api/v1/windows?limit={2**70}",
        f"/api/v1/dead-letters?limit={2**70}",
        "/api/v1/dead-letters?limit=-1",
        "/api/v1/status?window=week",
        "/api/v1/status?model=other",
        "/api/v1/status?metric=psi",
        "/api/v1/status?feature=colour",
        "/api/v1/status?colour=red",
    ],
)
def test_what_cannot_be_answered_is_refused(site: Site, path: str) -> None:
    status, text, _ = site.get(path)
    assert status == 400
    assert json.loads(text)["error"]


def test_a_store_that_fails_is_told_apart_from_a_wrong_question(site: Site) -> None:
    site.store.close()
    status, text, _ = site.get("/api/v1/windows")
    assert status == 503
    assert "closed database" in json.loads(text)["error"]


def test_dead_letters_and_alerts_are_shown(site: Site) -> None:
    (letter,) = json.loads(site.get("/api/v1/dead-letters")[1])["dead_letters"]
    assert (letter["place"], letter["reason"], letter["payload_base64"]) == (
        "p@5",
        "not_json",
        "/3s=",
    )
    (alert,) = json.loads(site.get("/api/v1/alerts")[1])["alerts"]
    assert (alert["feature"], alert["value"], alert["lower_threshold"]) == ("income", 0.25, None)


def test_a_port_in_use_is_named(site: Site) -> None:
    port = int(site.url.rpartition(":")[2])
    other = Server(site.board, site.store, "127.0.0.1", port, 10)
    with pytest.raises(StreamMonitorError, match=rf"http.port: 127.0.0.1:{port}: Address already"):
        other.start()


def test_the_page_shows_what_drifts_and_updates_itself(
    site: Site, snapshot: Snapshot, tmp_path: Path
) -> None:
    (model,) = snapshot.models
    (view,) = model.windows
    quiet = replace(view, closed=view.history[9], history=view.history[:10])
    before = replace(snapshot, models=(replace(model, windows=(quiet,)),), alerts=())
    site.board.publish(before)
    with chromium(tmp_path / "profile") as browser:
        wait = WebDriverWait(browser, 40)
        browser.get(site.url)
        wait.until(lambda b: "Nothing" in b.find_element(By.ID, "alerts").text)
        names = [
            r.get_attribute("data-name")
            for r in browser.find_elements(By.CSS_SELECTOR, "tr.feature")
        ]
        columns = (cells.column for cells in model.cells.values())
        assert set(names) == {c.name for c in columns if c.role is not Role.DERIVED}
        assert len(browser.find_elements(By.CSS_SELECTOR, "tr.feature svg .current")) > 10
        site.board.publish(snapshot)  # no reload: the page fetches by itself
        wait.until(lambda b: "income" in b.find_element(By.ID, "alerts").text)
        told = browser.find_element(By.ID, "outcomes").text
        assert "75.0 % of 4,000 labels in" in told
        assert "-0.04 ± 0.01 from what they mean" in told
        assert len(browser.find_elements(By.CSS_SELECTOR, "#split figure svg rect.loss")) == 2
        early = browser.find_elements(By.CSS_SELECTOR, "#charts .share-early, #charts .share-all")
        assert len(early) == 9
        first = browser.find_element(By.CSS_SELECTOR, "tr.feature")
        assert first.get_attribute("data-name") == "income"
        assert "drift" in first.text
        first.click()
        detail = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "tr.detail"))
        assert "missing_values" in detail.text
        assert "feature=income" in browser.current_url
        browser.find_element(By.ID, "find").send_keys("chan")
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "tr.feature")) == 1)
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
        site.server.stop()
        wait.until(lambda b: b.find_element(By.ID, "offline").is_displayed())
