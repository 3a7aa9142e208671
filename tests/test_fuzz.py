"""The short form of the fuzzer; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import worlds
from tests.fuzz import LIMIT, Fuzzed, Mutator, configured, fuzz, fuzz_wire, held
from tests.kafka_broker import ExternalBroker, KafkaBroker


def ignored(_number: int) -> None:
    """No progress is shown."""


@pytest.mark.parametrize(
    ("payload", "number"),
    [(b"", 1), (b"{}", 1), (b"[", 1), (b"[]", 0), (b"[[1,2],3]", 2), (b" [1, NaN]\n", 2),
     (b'[{"a":1,"a":2},1e999]', 2), (b"[" + b"9" * 9_000 + b",1]", 2), (b'["\xff",1]', 2),
     (b"[1,]", 1), (b"[1] 2", 1), (b"\xef\xbb\xbf[1,2,3]", 3), (b"[1,2" + b" " * LIMIT + b"]", 1),
     ("[1,2]".encode("utf-16"), 2), (b"[" * 90_000, 1), (b"[" * 3_000 + b"]" * 3_000, 1)],
)  # fmt: skip
def test_how_many_events_a_payload_holds(payload: bytes, number: int, tmp_path: Path) -> None:
    assert held(payload) == number


def test_payloads_follow_from_the_seed_and_are_of_every_sort() -> None:
    some = Mutator(3).draw(3_000)
    assert some == Mutator(3).draw(3_000)
    assert some != Mutator(4).draw(3_000)
    numbers = {held(payload) for _, payload, _ in some}
    assert {0, 1, 2, 30} < numbers
    good = 0
    for _, payload, _ in some:
        try:
            good += isinstance(json.loads(payload), dict)
        except (ValueError, RecursionError):
            continue
    assert 0.3 < good / len(some) < 0.8


def test_the_fuzzer_finds_an_event_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.build(tmp_path)
    fuzzed = Fuzzed(configured(world), tmp_path)
    monkeypatch.setattr("tests.fuzz.held", lambda payload: held(payload) + (payload == b"[1,2]"))
    fuzzed.feed([("events", b"[1]", 0)])
    with pytest.raises(AssertionError, match="2 events, not 3"):
        fuzzed.feed([("events", b"[1,2]", 0)])


def test_thirty_thousand_payloads(tmp_path: Path) -> None:
    outcome = fuzz(worlds.build(tmp_path), 30_000, 11, ignored)
    for what in ("accepted", "late", "rejected", "labels_joined", "labels_without_prediction"):
        assert outcome.counts[what] > 30, what
    print(outcome)


def test_twenty_thousand_payloads_through_kafka(
    tmp_path: Path, kafka_broker: KafkaBroker | ExternalBroker
) -> None:
    outcome = fuzz_wire(kafka_broker, tmp_path, 20_000, 12, ignored)
    assert outcome.counts["events_rejected_total"] > 5_000
    assert outcome.counts["events_total"] > 5_000
    assert outcome.counts["labels_total"] > 1_000
    print(outcome)
