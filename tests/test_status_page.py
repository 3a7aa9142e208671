"""The status page on what a real run of the monitor shows, in a real browser."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.snapshot import ServiceView, Snapshot
from stream_monitor.monitor import Monitor
from stream_monitor.sources.files import FilesSource
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.watch import watch
from tests import worlds
from tests.browser import chromium

QUIET, DRIFTED = 12 * 360, 5 * 360 + 140  # rows; an hour has 360
DISTURBED = {"age", "income", "ratio", "channel"}


def disturbed(number: int, line: bytes) -> bytes:
    """Half a day later; ages of 140, a new channel, and text for numbers in some."""
    event = orjson.loads(line)
    event["ts"] += 12 * 3_600
    event["features"] |= {
        **({"age": 140} if number % 5 == 0 else {}),
        **({"channel": "kiosk"} if number % 9 == 0 else {}),
        **({"ratio": "n/a"} if number % 7 == 0 else {}),
    }
    return orjson.dumps(event)


class Live:
    """A server on the board of a monitor that has read its input to the end."""

    def __init__(self, folder: Path) -> None:
        lines = worlds.events(QUIET, 3)
        later = worlds.events(DRIFTED, 4, shift=0.4)
        lines += [disturbed(i, line) for i, line in enumerate(later)] + [b"{"]
        (folder / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        path = str(folder / "events.jsonl")
        config = worlds.build(folder).config(
            source={"type": "files", "path": path},
            windows=[{"name": "hour", "size": "1h"}, {"name": "day", "size": "24h"}],
        )
        watched, windows = watch(config, "test")
        self.store = SqliteStore(None, results_retention_windows=1_000, max_dead_letters=10)
        self.board = Board()
        self.server = Server(self.board, self.store, "127.0.0.1", 0, 20_000)
        self.port = self.server.start()
        self.url = f"http://127.0.0.1:{self.port}"
        source = FilesSource(path, max_record_size=2**20)
        monitor = Monitor(
            config=config, watched=watched, windows=windows, source=source, store=self.store,
            board=self.board, step_timer=self.server.timer.step,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while self.board.current is None or not self.board.current.service.finished:
            assert time.monotonic() < deadline
            monitor.round()
        stop = threading.Event()
        stop.set()
        monitor.run(stop)
        assert self.board.current is not None
        self.snapshot: Snapshot = self.board.current

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read())

    def close(self) -> None:
        self.server.stop()
        self.store.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with closing(Live(tmp_path_factory.mktemp("live"))) as live:
        yield live


@pytest.fixture
def browser(live: Live, tmp_path: Path) -> Iterator[Chrome]:
    # its heart beats on, though the monitor has stopped
    service = replace(live.snapshot.service, heartbeat=time.time_ns() // 1_000)
    live.board.publish(replace(live.snapshot, service=service))
    with chromium(tmp_path / "profile") as browser:
        yield browser


def text(browser: Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def shown(browser: Chrome) -> list[str | None]:
    """Names of the features, in the order of the table."""
    rows = browser.find_elements(By.CSS_SELECTOR, "tr.feature")
    return [row.get_attribute("data-name") for row in rows]


def test_status_says_what_the_results_log_says(live: Live) -> None:
    view = live.get("/api/v1/status?window=hour&feature=income")["view"]
    rows = live.get("/api/v1/windows?window=hour&state=closed")["windows"]
    newest = {
        (r["feature"], r["metric"]): r
        for r in rows
        if r["window_index"] == view["closed"]["index"] == 16
    }
    for feature in view["features"]:
        for v in feature["values"]:
            row = newest[feature["name"], v["metric"]]
            assert (v["value"], v["upper"], v["alert"]) == (
                row["value"], row["upper_threshold"], row["alert"],
            )  # fmt: skip
    assert [h["rows"] for h in view["history"]] == [360] * 17
    for v in view["detail"]["values"]:
        past = [r for r in rows if (r["feature"], r["metric"]) == ("income", v["metric"])]
        assert [p[3] for p in v["course"]] == [r["alert"] for r in past]
        assert [p[0] for p in v["course"]] == pytest.approx([r["value"] for r in past], rel=1e-3)


def test_the_features_furthest_beyond_their_thresholds_stand_first(live: Live) -> None:
    features = live.get("/api/v1/status")["view"]["features"]
    assert {f["name"] for f in features if f["alert"]} == DISTURBED
    alerting = [f["alert"] for f in features]
    assert alerting == sorted(alerting, reverse=True)
    for group in (True, False):
        ratios = [f["ratio"] for f in features if f["alert"] is group]
        assert ratios == sorted(ratios, reverse=True)
        assert min(ratios) > 1 if group else max(ratios) < 1


def test_alerts_lead_to_their_feature(live: Live, browser: Chrome) -> None:
    wait = WebDriverWait(browser, 20)
    browser.get(live.url)
    links = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#alerts a"))
    assert {link.text for link in links} == DISTURBED  # one line each, however many values fire
    assert shown(browser)[:4] == [link.text for link in links]
    assert "Newest closed window (1h)" in text(browser, "state")
    assert "360 rows" in text(browser, "state")
    assert "Filling: 140 rows" in text(browser, "state")
    assert "not_json 1" in text(browser, "service")
    assert "this instance only" in text(browser, "service")
    browser.find_element(By.LINK_TEXT, "channel").click()
    detail = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "tr.detail"))
    assert detail.get_attribute("data-name") == "channel"
    assert "unseen_values" in detail.text
    title = detail.find_element(By.XPATH, ".//*[name()='title'][starts-with(., 'unseen:')]")
    assert title.get_attribute("textContent") == "unseen: reference 0 %, now 11.1 %"
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_a_window_that_has_not_closed_is_shown_and_not_judged(live: Live, browser: Chrome) -> None:
    wait = WebDriverWait(browser, 20)
    browser.get(f"{live.url}/#window=day")
    wait.until(lambda b: "No closed window yet" in text(b, "state"))
    assert "closes when the watermark passes 2023-11-16 00:00" in text(browser, "state")
    assert "Filling: 6,260 rows" in text(browser, "state")
    chips = browser.find_elements(By.CSS_SELECTOR, "tr.feature .chip")
    assert {chip.text for chip in chips} == {"not judged"}
    assert len(chips) == 8


def test_performance_is_drawn_and_a_change_is_explained(live: Live, browser: Chrome) -> None:
    wait = WebDriverWait(browser, 20)
    browser.get(f"{live.url}/#window=hour&feature=income")
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".changes tbody tr"))
    charts = browser.find_elements(By.CSS_SELECTOR, "#charts figure")
    assert {"roc_auc", "accuracy", "f1"} <= {c.text.split()[0] for c in charts}
    for name in ("estimated", "realized"):
        line = charts[0].find_element(By.CSS_SELECTOR, f"polyline.{name}")
        assert len((line.get_attribute("points") or "").split()) > 10
    assert charts[0].find_elements(By.CSS_SELECTOR, "polygon.band")
    answer = live.get("/api/v1/status?window=hour&feature=income")["view"]["detail"]["changes"]
    drawn = [row.text for row in browser.find_elements(By.CSS_SELECTOR, ".changes tbody tr")]
    assert all(row.startswith(c["label"]) for row, c in zip(drawn, answer, strict=True))
    drift = [a for a in live.get("/api/v1/alerts")["alerts"] if a["family"] == "drift"]
    assert all("unseen: 0.0%" in a["explanation"] for a in drift if a["feature"] == "channel")
    assert all(a["explanation"] for a in drift)
    # there is one segment only, all rows, so there is nothing to choose
    assert not browser.find_element(By.ID, "segment").is_displayed()


def test_a_row_opens_by_keyboard_and_keeps_its_focus_through_updates(
    live: Live, browser: Chrome
) -> None:
    wait = WebDriverWait(browser, 20)
    browser.get(f"{live.url}/#metric=psi")
    wait.until(shown)
    button = browser.find_element(By.CSS_SELECTOR, 'tr[data-name="score"] button')
    button.send_keys(Keys.ENTER)
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "tr.detail"))
    assert "metric=psi" in browser.current_url
    assert "feature=score" in browser.current_url
    assert live.board.current is not None
    service = replace(live.board.current.service, accepted={("loans", "1"): 987_654})
    live.board.publish(replace(live.board.current, service=service))
    wait.until(lambda b: "987,654" in text(b, "service"))
    focused = browser.switch_to.active_element
    assert (focused.text, focused.get_attribute("aria-expanded")) == ("score", "true")
    focused.send_keys(Keys.ENTER)
    wait.until(lambda b: not b.find_elements(By.CSS_SELECTOR, "tr.detail"))


def test_a_selection_that_is_gone_is_forgotten(live: Live, browser: Chrome) -> None:
    browser.get(f"{live.url}/#model=gone&feature=gone")
    WebDriverWait(browser, 20).until(shown)
    assert "gone" not in browser.current_url


def test_names_are_text_and_never_markup(live: Live, browser: Chrome) -> None:
    name = "<img src=x onerror=alert(1)>\"'&"
    assert live.board.current is not None
    service = replace(live.board.current.service, source=name)
    alert = replace(live.snapshot.alerts[0], feature=name)
    live.board.publish(replace(live.board.current, service=service, alerts=(alert,)))
    browser.get(live.url)
    WebDriverWait(browser, 20).until(shown)
    assert text(browser, "source").startswith(name)
    assert name in text(browser, "alerts")
    assert browser.find_elements(By.TAG_NAME, "img") == []


def test_a_stalled_loop_and_a_stopped_service_are_said_loudly(live: Live, browser: Chrome) -> None:
    wait = WebDriverWait(browser, 20)
    live.board.publish(replace(live.snapshot, service=replace(live.snapshot.service, heartbeat=1)))
    browser.get(live.url)
    wait.until(lambda b: "stalled" in text(b, "service"))
    live.server.stop()
    wait.until(lambda b: "does not answer" in text(b, "offline"))
    live.server = Server(live.board, live.store, "127.0.0.1", live.port, 20_000)
    assert live.server.start() == live.port
    wait.until(lambda b: not b.find_element(By.ID, "offline").is_displayed())


def stand_by(live: Live, role: str, *, ready: bool = True) -> None:
    """Show what a replica shows that is not the active one."""
    partitions = ("payments:0", "payments:3") if role != "aggregator" and ready else ()
    service = ServiceView(
        "0", "kafka topics payments", ready=ready, single_instance=False, active=False, role=role,
        heartbeat=time.time_ns() // 1_000, partitions=partitions,
        lag={name: 1_500 * i for i, name in enumerate(partitions)},
    )  # fmt: skip
    live.board.publish(Snapshot(service))


@pytest.mark.parametrize(
    ("role", "state", "told"),
    [
        ("worker", "reading", "It closes no window: the active aggregator does."),
        ("worker", "waiting or restoring", "It waits for its partitions"),
        ("aggregator", "standing by", "It stands by: another replica evaluates"),
        ("aggregator", "waiting or restoring", "reads what was counted and concluded"),
        ("all", "reading", "It reads and counts its partitions. It stands by"),
    ],
)
def test_a_replica_that_is_not_active_says_what_it_is_and_where_to_look(
    live: Live, browser: Chrome, role: str, state: str, told: str
) -> None:
    wait = WebDriverWait(browser, 20)
    ready = state != "waiting or restoring"
    stand_by(live, role, ready=ready)
    assert live.get("/api/v1/status?model=gone")["view"] is None
    browser.get(f"{live.url}/#window=hour")
    wait.until(lambda b: told in text(b, "part"))
    assert "stream_monitor_aggregator_active 1" in text(browser, "part")
    service = text(browser, "service").split("\n")
    assert service[:2] == ["state", state]
    assert service[3] == {"all": "worker and aggregator"}.get(role, role)
    assert "watermark" not in service
    partitions = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#part tbody tr")]
    known = role != "aggregator" and ready
    assert partitions == (["payments:0 0", "payments:3 1,500"] if known else [])
    # no empty panels
    assert not any(s.is_displayed() for s in browser.find_elements(By.CLASS_NAME, "windows"))
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_a_page_follows_its_replica_through_a_hand_over(live: Live, browser: Chrome) -> None:
    wait = WebDriverWait(browser, 20)
    browser.get(live.url)
    wait.until(shown)
    active = live.board.current
    assert active is not None
    assert browser.title.startswith("(")
    stand_by(live, "all")
    wait.until(lambda b: "Not active" in text(b, "part"))
    assert browser.title == "stream_monitor"
    live.board.publish(active)
    wait.until(lambda b: b.find_element(By.ID, "alerts").is_displayed())
    assert not browser.find_element(By.ID, "replica").is_displayed()
