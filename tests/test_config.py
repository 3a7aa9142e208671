"""The configuration: every error at once, each with its key, its value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.checks import client_option_problems, method_problems, read_config
from stream_monitor.config.load import parse_config
from stream_monitor.config.units import format_duration, parse_duration, parse_size
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.watch import watch
from tests import worlds

CHECKS = (method_problems, client_option_problems)


def problems(**sections: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config(worlds.raw_config(**sections), place="test", folder=Path("."), checks=CHECKS)
    return caught.value.problems


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"colour": 1}, "colour", "no such section"),
        ({"models": []}, "models", "at least 1"),
        ({"models": [{"name": "a", "refrence": "x"}]}, "models[0].reference", "add this key"),
        ({"models": [{"name": "a", "reference": "x"}] * 2}, "models[1]", "once"),
        ({"windows": [{"name": "a b", "size": "1h"}]}, "windows[0].name", "pattern"),
        ({"windows": [{"name": "a"}]}, "windows[0]", "either `size` or `rows`"),
        ({"windows": [{"name": "a", "size": "1 hour"}]}, "windows[0].size", "with its unit"),
        ({"windows": [{"name": "a", "size": "1d", "every": "5h"}]}, "windows[0]", "part of"),
        ({"windows": [{"name": "a", "rows": 5, "every": "5h"}]}, "windows[0]", "leave out"),
        ({"windows": [{"name": "a", "rows": 5}] * 2}, "windows[1].name", "its own name"),
        ({"mapping": {"timestamp": None}}, "windows[0].size", "need `mapping.timestamp`"),
        ({"source": {"type": "pigeon"}}, "source", "kafka, files, follow, stdin"),
        ({"methods": {"continuous": ["chi2"]}}, "methods.continuous[0]", "choose from"),
        ({"methods": {"quality": ["wrong_type", "wrong_type"]}}, "methods.quality[1]", "twice"),
        ({"alerts": {"overrides": [{"metric": "psi"}]}}, "alerts.overrides[0]", "give `lower`"),
        ({"alerts": {"overrides": [{"lower": 2, "upper": 1}]}}, "alerts.overrides[0].lower",
         "not exceed"),
        ({"alerts": {"false_alarms": 1}}, "alerts.false_alarms", "less than 0.5"),
        ({"limits": {"memory": "much"}}, "limits.memory", "512MiB|with its unit"),
    ],
)  # fmt: skip
def test_each_error_names_its_key_and_the_remedy(
    sections: dict[str, Any], key: str, words: str
) -> None:
    found = problems(**sections)
    assert key in [p.key for p in found]
    (problem,) = [p for p in found if p.key == key]
    assert any(w in problem.remedy for w in words.split("|")), problem.remedy


def test_all_errors_are_told_at_once() -> None:
    found = problems(
        windows=[{"name": "a", "rows": 10}, {"name": "b", "size": "1x"}],
        source={"type": "kafka", "bootstrap_servers": "x:1", "topics": ["t"],
                "options": {"group_id": "g", "sasl_plain_password": "hush", "colour": 1}},
        methods={"categorical": ["jensen"]},
        http={"port": 99_999},
    )  # fmt: skip
    assert {p.key for p in found} == {
        "windows[1].size", "source.options.group_id", "source.options.colour",
        "source.options.sasl_plain_password", "methods.categorical[0]", "http.port",
    }  # fmt: skip
    assert "hush" not in str(ConfigError("x", found))


def test_rows_are_refused_for_kafka() -> None:
    source = {"type": "kafka", "bootstrap_servers": "x:1", "topics": ["t"]}
    (problem,) = problems(windows=[{"name": "a", "rows": 10}], source=source)
    assert "use `size: 1h` with Kafka" in problem.remedy


def test_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "monitor.yaml").write_text(
        "models: [{name: m, reference: sub/m.ref}]\nwindows: [{name: h, size: 1h}]\n"
        "source: {type: follow, path: log.jsonl}\n"
    )
    config = read_config(tmp_path / "monitor.yaml")
    assert config.models[0].reference == tmp_path / "sub/m.ref"
    assert config.source is not None
    assert getattr(config.source, "path", None) == tmp_path / "log.jsonl"


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "monitor.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"monitor\.yaml: 1 problem"):
        read_config(tmp_path / "monitor.yaml")


def test_more_memory_than_allowed_is_refused_with_the_worst_case(tmp_path: Path) -> None:
    world = worlds.build(tmp_path)
    config = world.config(
        windows=[{"name": "long", "size": "30d", "every": "1m"}], limits={"memory": "64MiB"}
    )
    with pytest.raises(ConfigError, match=r"limits\.memory: '64 MiB': the worst case is"):
        watch(config, "test")


def test_every_missing_reference_is_named(tmp_path: Path) -> None:
    models = [{"name": n, "reference": f"{n}.ref"} for n in ("a", "b")]
    config = parse_config(worlds.raw_config(models=models), place="test", folder=tmp_path)
    with pytest.raises(ConfigError) as caught:
        watch(config, "test")
    assert [p.key for p in caught.value.problems] == ["models[0].reference", "models[1].reference"]


@given(st.integers(0, 10**15))
def test_durations_are_read_as_they_are_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds * 1_000)) == milliseconds * 1_000


@pytest.mark.parametrize("text", ["1", "h", "-1h", "1h 30m", "", None, 5, "1.5h"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        parse_duration(text)


def test_sizes() -> None:
    assert [parse_size(t) for t in ("3B", "2KiB", "512MiB", "1GiB")] == [3, 2048, 2**29, 2**30]


def test_the_generated_pages_are_current() -> None:
    import importlib.util

    path = Path(__file__).parents[1] / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.stale() == []
