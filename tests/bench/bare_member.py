"""A member of a group that only polls, for :mod:`tests.bench.rebalance`.

``python -m tests.bench.bare_member SERVERS TOPIC`` prints a line for each partition of each poll:
its number and the time.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor


def main() -> None:
    _, servers, topic = sys.argv
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=topic,
        auto_offset_reset="earliest",
        session_timeout_ms=6_000,
        heartbeat_interval_ms=500,
        partition_assignment_strategy=[CooperativeStickyAssignor],
    )
    while not stop.is_set():
        for partition in consumer.poll(500):
            print(partition.partition, time.time(), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
