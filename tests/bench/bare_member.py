"""A member of a group that only polls, for :mod:`tests.bench.rebalance`.

``python -m tests.bench.bare_member SERVERS TOPIC`` prints a line for each record: the number of its
partition and the time. It is librdkafka's, for groups of kafka-python's members that rebalance
cooperatively get stuck now and then unless they are reminded.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from confluent_kafka import Consumer


def main() -> None:
    _, servers, topic = sys.argv
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 500,
            "partition.assignment.strategy": "cooperative-sticky",
        }
    )
    consumer.subscribe([topic])
    while not stop.is_set():
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            print(message.partition(), time.time(), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
