"""Compose, provisioning, rules and dashboards agree with each other and with the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_monitor.checks import read_config
from stream_monitor.cli import parser
from stream_monitor.config.load import parse_config
from stream_monitor.config.model import Config, KafkaSource, KafkaStore
from stream_monitor.demo.writer import TOPIC
from stream_monitor.expose.catalogue import CATALOGUE
from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.snapshot import ServiceView, Snapshot
from stream_monitor.store.sqlite import SqliteStore
from tests.observability import (
    GRAFANA,
    ROOT,
    alerts,
    boards,
    filled,
    load,
    panels,
    rules,
    selectors,
)
from tests.prometheus_server import fetch

COMPOSE: dict[str, Any] = load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"topics", "reference"}
ROLES = ["worker", "aggregator"]
BOARDS = boards()
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in BOARDS.items()
    for panel in panels(board)
]
UNITS = {"none", "short", "percentunit", "s", "bytes", "binBps", "cps", "dateTimeAsIso"}


# --- compose ------------------------------------------------------------------------------------


def test_compose_has_the_whole_scene_and_no_obsolete_keys() -> None:
    assert set(SERVICES) == {
        "kafka", "topics", "reference", "traffic", "monitor", "prometheus", "alertmanager",
        "grafana", *ROLES,
    }  # fmt: skip
    # `docker compose up` is the scene without them
    assert {n for n, s in SERVICES.items() if s.get("profiles")} == set(ROLES)
    assert "version" not in COMPOSE


@pytest.mark.parametrize("name", SERVICES)
def test_image_is_pinned_or_built_here(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].partition(":")[2]
    if "build" in service:
        assert (ROOT / service["build"] / "Dockerfile").is_file()
    else:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_exist_and_ports_listen_on_localhost_only(name: str) -> None:
    service = SERVICES[name]
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert mount.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_every_service_that_stays_has_a_health_check() -> None:
    assert re.search(r"^HEALTHCHECK .*\n.*9877/-/healthy", (ROOT / "Dockerfile").read_text(), re.M)
    for name, service in SERVICES.items():
        check = service.get("healthcheck")
        if name in ONE_SHOT | {"traffic"}:
            # what comes from our image would inherit the service's check, and has no port
            assert check == {"disable": True} or "build" not in service
        else:
            assert "build" in service if check is None else check["test"][0] == "CMD"


def test_dependencies_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how == {"condition": wanted}, (name, needed)
    assert all(set(SERVICES[name]["depends_on"]) == ONE_SHOT for name in ["monitor", *ROLES])


def test_commands_of_our_image_are_commands_of_the_program() -> None:
    for name, service in SERVICES.items():
        if "build" in service:
            assert parser().parse_args(service["command"]), name
    entry = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["stream-monitor"]' in entry


def test_image_runs_unprivileged_and_copies_only_what_is_not_ignored() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert any(re.fullmatch(r"USER \d+", line) for line in lines)
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    for service in SERVICES.values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


# --- the demo's configurations agree ------------------------------------------------------------


def _mounted(service: str, inside: str) -> Path:
    """The file of the checkout that a service sees under a path."""
    for mount in SERVICES[service]["volumes"]:
        source, target, *_ = mount.split(":")
        if inside == target or inside.startswith(f"{target}/"):
            return Path(f"{ROOT}/{source}{inside.removeprefix(target)}").resolve()
    raise AssertionError(f"{service} does not see {inside}")


def _option(service: str, option: str) -> str:
    """The value of ``option=value`` or ``option value`` in a command."""
    words = [w for word in SERVICES[service]["command"] for w in word.split("=", 1)]
    return str(words[words.index(option) + 1])


def _monitor(service: str = "monitor") -> Config:
    return read_config(_mounted(service, _option(service, "--config")))


def test_monitor_reads_the_topic_and_the_reference_that_are_made() -> None:
    config = _monitor()
    assert isinstance(config.source, KafkaSource)
    broker = config.source.bootstrap_servers
    (script,) = SERVICES["topics"]["command"]
    made = re.search(r"^for topic in (.+); do$", script, re.M)
    assert made
    assert made[1].split() == [TOPIC, f"{TOPIC}-labels"]
    assert config.source.topics == [TOPIC]
    assert f"--partitions {config.source.partitions} " in script
    assert f"--bootstrap-server {broker} " in script
    assert broker == _option("traffic", "--bootstrap-servers")
    # retention goes by record timestamps, and event time runs away from the clock
    assert "message.timestamp.type=LogAppendTime" in script
    assert config.mapping.arrival == "event_time"
    environment = SERVICES["kafka"]["environment"]
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{broker}"
    assert f"PLAINTEXT://:{broker.partition(':')[2]}" in environment["KAFKA_LISTENERS"].split(",")
    assert str(config.models[0].reference) == _option("reference", "--output")
    writable = {path.split(":")[0] for path in SERVICES["monitor"]["tmpfs"]}
    assert str(config.store.path.parent) in writable


def test_replicas_read_what_the_monitor_reads_and_differ_in_their_role() -> None:
    alone = _monitor()
    for role in ROLES:
        config = _monitor(role)
        assert config.role == role
        assert isinstance(config.store, KafkaStore)
        assert isinstance(config.source, KafkaSource)
        assert isinstance(alone.source, KafkaSource)
        assert config.source.group_id != alone.source.group_id
        same = {"role": alone.role, "store": alone.store, "source": alone.source}
        assert config.model_copy(update=same) == alone
        assert config.source.model_copy(update={"group_id": alone.source.group_id}) == alone.source
        assert SERVICES[role]["deploy"] == {"replicas": 2}
        writable = {path.split(":")[0] for path in SERVICES[role]["tmpfs"]}
        assert str(config.store.path.parent) in writable
    worker, aggregator = map(_monitor, ROLES)
    assert worker.model_copy(update={"role": "aggregator"}) == aggregator


def test_prometheus_scrapes_the_monitor_where_it_listens() -> None:
    path = _mounted("prometheus", _option("prometheus", "--config.file"))
    config = load(path)
    http = _monitor().http
    assert http.host == "0.0.0.0"  # noqa: S104 - inside its container
    alone, replicas = config["scrape_configs"]
    assert alone["job_name"] == "stream-monitor"
    assert alone["static_configs"] == [{"targets": [f"monitor:{http.port}"]}]
    # one job for all of them, as the rules want it
    (names,) = replicas["dns_sd_configs"]
    assert (names["names"], names["type"]) == (ROLES, "A")
    assert {_monitor(role).http.port for role in ROLES} == {names["port"]}
    assert SERVICES["monitor"]["ports"] == [f"127.0.0.1:{http.port}:{http.port}"]
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert SERVICES["alertmanager"]["ports"] == ["127.0.0.1:9093:9093"]
    for name in config["rule_files"]:
        assert _mounted("prometheus", f"/etc/prometheus/{name}") == path.parent / name


def test_grafana_is_provisioned_with_prometheus_and_all_dashboards() -> None:
    folder = _mounted("grafana", "/etc/grafana/provisioning")
    (source,) = load(folder / "datasources" / "prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    port = SERVICES["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    scrape = load(GRAFANA / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = load(folder / "dashboards" / "stream-monitor.yml")["providers"]
    assert _mounted("grafana", provider["options"]["path"]) == GRAFANA / "dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert _mounted("grafana", home).is_file()


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", "rules.yml"],
        ["promtool", "test", "rules", "rules_test.yml"],
        ["amtool", "check-config", "../alertmanager/alertmanager.yml"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_prometheus_own_tools_accept_the_files(command: list[str]) -> None:
    assert shutil.which(command[0]), "apt-get install prometheus prometheus-alertmanager"
    done = subprocess.run(
        command, cwd=GRAFANA / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- Kubernetes ---------------------------------------------------------------------------------

MANIFEST: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())
)
CONFIGS: dict[str, str] = MANIFEST[0]["data"]
DEPLOYMENTS = {
    found["spec"]["selector"]["matchLabels"]["role"]: found
    for found in MANIFEST
    if found["kind"] == "Deployment"
}


def _pod(role: str) -> tuple[dict[str, Any], dict[str, Any], Config]:
    """A role's pod, its container, and the configuration that this one reads."""
    pod = DEPLOYMENTS[role]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = parser().parse_args(container["args"])
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert mounts[str(arguments.config.parent)] == "config"
    raw = yaml.safe_load(CONFIGS[arguments.config.name])
    return pod, container, parse_config(raw, place=role, folder=Path("/"))


def test_manifest_has_workers_two_aggregators_and_configurations_that_load() -> None:
    assert {role: d["spec"]["replicas"] for role, d in DEPLOYMENTS.items()} == {
        "worker": 3,
        "aggregator": 2,
    }
    configs = {role: _pod(role)[2] for role in DEPLOYMENTS}
    assert all(config.role == role for role, config in configs.items())
    assert configs["worker"].model_copy(update={"role": "aggregator"}) == configs["aggregator"]
    assert all(isinstance(config.store, KafkaStore) for config in configs.values())


@pytest.mark.parametrize("role", ROLES)
def test_pod_writes_and_reads_where_it_may_and_has_time_to_end(role: str) -> None:
    pod, container, config = _pod(role)
    assert pod["terminationGracePeriodSeconds"] == 30
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {Path(m["mountPath"]): m.get("readOnly", False) for m in container["volumeMounts"]}
    assert not mounts[config.store.path.parent]
    assert all(mounts[model.reference.parent] for model in config.models)
    given = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == given
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert config.limits.memory < 2 * 2**30


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_paths_that_the_service_has_and_prometheus_finds_the_pods(role: str) -> None:
    _, container, config = _pod(role)
    assert container["ports"] == [{"name": "http", "containerPort": config.http.port}]
    assert config.http.host == "0.0.0.0"  # noqa: S104 - inside its pod
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    assert all(probe == {"path": "/-/healthy", "port": "http"} for probe in probes.values())
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "http"}
    (scraped,) = (found["spec"] for found in MANIFEST if found["kind"] == "PodMonitor")
    board = Board()
    now = time.time_ns() // 1_000
    board.publish(Snapshot(ServiceView("0", role, ready=True, heartbeat=now)))
    store = SqliteStore(None, results_retention_windows=1, max_dead_letters=0)
    server = Server(board, store, "127.0.0.1", 0, 100)
    port = server.start()
    try:
        (endpoint,) = scraped["podMetricsEndpoints"]
        assert endpoint["port"] == "http"
        for path in ("/-/healthy", "/-/ready", endpoint["path"]):
            fetch(f"http://127.0.0.1:{port}{path}")
    finally:
        server.stop()
        store.close()
    labels = DEPLOYMENTS[role]["spec"]["template"]["metadata"]["labels"]
    assert scraped["selector"]["matchLabels"].items() <= labels.items()
    assert DEPLOYMENTS[role]["spec"]["selector"]["matchLabels"] == labels


# --- rules --------------------------------------------------------------------------------------


def _names(records: set[str]) -> set[str]:
    """Every series that may be asked for: the service's, the process's, and what rules record."""
    names = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"} | records
    for entry in CATALOGUE.values():
        if entry.type == "histogram":
            names |= {entry.full_name + part for part in ("_bucket", "_sum", "_count")}
        else:
            names.add(entry.full_name)
    return names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_uses_known_metrics(rule: dict[str, Any]) -> None:
    known = _names({r["record"] for r in rules() if "record" in r})
    used = selectors(rule["expr"])
    templates = " ".join(rule.get("annotations", {}).values())
    asked = set(re.findall(r"\bstream_monitor_\w+", templates))
    assert {s.name for s in used} | asked <= known
    for selector in used:
        labels = _labels(selector.name)
        assert labels is None or set(selector.matchers) <= labels


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_follows_the_conventions(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"StreamMonitor([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert "for" in rule
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert "{{" not in notes["summary"]
    page, _, anchor = notes["runbook_url"].partition("#")
    assert page.endswith("/docs/alerts.md")
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.M)
    assert anchor == rule["alert"].lower()
    assert anchor in {h.lower() for h in headings}


def test_runbook_has_no_alert_that_is_gone_and_names_the_right_severity() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text()
    told = dict(re.findall(r"^## (\w+)\n\n\*(\w+)\.\*", text, re.M))
    assert told == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}


def test_every_window_alert_demands_fresh_data() -> None:
    judged = {"drift_alert", "quality_alert", "outliers_alert"}
    seen = set()
    for rule in alerts():
        names = {s.name.removeprefix("stream_monitor_") for s in selectors(rule["expr"])}
        if names & judged:
            seen |= names & judged
            assert "monitor:stream_monitor_fresh:bool" in names
            assert rule["for"] == "0m"
    assert seen == judged


def test_every_alert_has_a_rule_test_in_which_it_fires() -> None:
    tests = load(GRAFANA / "prometheus" / "rules_test.yml")["tests"]
    firing = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert firing == {rule["alert"] for rule in alerts()}


def test_inhibition_names_alerts_that_exist() -> None:
    names = {rule["alert"] for rule in alerts()}
    for rule in load(GRAFANA / "alertmanager" / "alertmanager.yml")["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            pattern = re.fullmatch(r'alertname=~"StreamMonitor\((.+)\)"', matcher)
            assert pattern, matcher
            assert {f"StreamMonitor{part}" for part in pattern[1].split("|")} <= names


# --- dashboards ---------------------------------------------------------------------------------


def _labels(name: str) -> set[str] | None:
    """Labels that a metric of the catalogue has once it is scraped; None for others."""
    found = CATALOGUE.get(re.sub("_(bucket|sum|count)$", "", name.removeprefix("stream_monitor_")))
    if found is None or not name.startswith("stream_monitor_"):
        return None
    return {*found.labels, "job", "instance", "le"}


def test_dashboards_and_runbook_links_are_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, GRAFANA / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_dashboards_have_uids_titles_and_no_id() -> None:
    assert set(BOARDS) == {"overview", "feature", "performance", "operations"}
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)
    for name, board in BOARDS.items():
        assert board["uid"] == f"stream-monitor-{name}"
        assert board.get("id") is None
        assert board["editable"] is False
        assert board["description"]
        assert board["time"]["to"] == "now"
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_fill_their_rows_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height


@pytest.mark.parametrize("name", BOARDS)
def test_variables_are_templated(name: str) -> None:
    variables = {v["name"]: v for v in BOARDS[name]["templating"]["list"]}
    assert next(iter(variables)) == "datasource"
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["datasource"]["label"] == "Data source"
    for each in ("job", "instance"):
        assert variables[each]["label"] == each.title()
        assert variables[each]["multi"]
        assert variables[each]["allValue"] == ".+"
    windows = {"model", "version", "window"}
    assert name == "operations" or windows <= set(variables)
    before: set[str] = set()
    for variable in variables.values():
        if variable["type"] == "query":
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["refresh"] == 2
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert found
            assert found[2] == variable["name"]
            (selector,) = selectors(found[1])
            labels = _labels(selector.name)
            assert labels
            assert found[2] in labels
            # only variables that stand before it, else Grafana cannot order their queries
            assert set(re.findall(r"\$(\w+)", found[1])) <= before
        before.add(variable["name"])


@pytest.mark.parametrize("panel", PANELS)
def test_panel_passes_the_dashboard_linters_rules(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] == "byFrameRefID":
            assert override["matcher"]["options"] in refs


@pytest.mark.parametrize("panel", PANELS)
def test_queries_parse_and_ask_for_what_is_exposed(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        expr = target["expr"]
        found = selectors(filled(expr))
        assert found
        for selector in found:
            assert selector.name in _names(set())
            labels = _labels(selector.name)
            assert labels is None or set(selector.matchers) <= labels
            assert selector.matchers["job"] == ("MatchOp.Re", "$job")
            assert selector.matchers["instance"] == ("MatchOp.Re", "$instance")
        ranges = re.findall(r"\b(?:rate|irate|increase)\([^()]*?\[([^]]+)\]", expr)
        assert set(ranges) <= {"$__rate_interval"}
        counters = re.findall(r"\w+_total\{", expr)
        assert len(counters) <= len(ranges)


@pytest.mark.parametrize("panel", PANELS)
def test_legends_and_links_use_labels_that_the_query_gives(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        grouped = re.search(r"\bby \(([^)]+)\) ", target["expr"])
        if grouped:
            given = set(grouped[1].split(", "))
        else:
            used = selectors(filled(target["expr"]))
            every = [_labels(s.name) or {"job", "instance"} for s in used]
            given = set.intersection(*every)
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= given
    uids = {board["uid"] for board in BOARDS.values()}
    for override in panel["fieldConfig"]["overrides"]:
        for prop in override["properties"]:
            for link in prop["value"] if prop["id"] == "links" else []:
                assert re.match(r"/d/([\w-]+)\?", link["url"])[1] in uids  # type: ignore[index]
                fields = set(re.findall(r"\$\{__data\.fields\.(\w+)\}", link["url"]))
                assert fields <= given
                target_variables = {v["name"] for v in BOARDS["feature"]["templating"]["list"]}
                assert set(re.findall(r"var-(\w+)=", link["url"])) <= target_variables


@pytest.mark.parametrize("name", sorted(BOARDS.keys() - {"operations"}))
def test_what_windows_say_is_one_line_whichever_replica_says_it(name: str) -> None:
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            aggregated = re.search(r"\b(?:max|sum) ?(?:by \(([^)]+)\) )?\(", target["expr"])
            assert aggregated, panel["title"]
            assert "instance" not in (aggregated[1] or "").split(", ")


def test_every_value_metric_is_drawn_somewhere() -> None:
    drawn = {
        s.name
        for board in BOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        for s in selectors(filled(target["expr"]))
    }
    judged = {m.full_name for m in CATALOGUE.values() if "metric" in m.labels}
    missing = {name.removeprefix("stream_monitor_") for name in judged - drawn}
    # a lower bound is rare, the filling window's outliers and realized performance, which is there
    # where labels come with events, stand on the status page, statistics have no thresholds by
    # default, and detectors are there only where they are configured
    assert missing == {
        "quality_lower_threshold_ratio", "live_outliers_ratio", "live_realized_performance",
        "detections", "detections_alert", "live_detections", "statistics_alert",
        "statistics_lower_threshold", "statistics_upper_threshold",
        "realized_performance_lower_confidence", "realized_performance_upper_confidence",
        # what rests on labels says its verdict in the alerts; not every value has both bounds
        "covariate_effect_alert", "concept_effect_alert", "concept_drift_alert",
        "concept_drift_lower_threshold", "concept_drift_lower_confidence",
        "concept_drift_upper_confidence", "estimator_alert", "estimator_lower_threshold",
        "labelling_alert", "labelling_lower_threshold", "labelling_lower_confidence",
        "labelling_upper_confidence",
    }  # fmt: skip
