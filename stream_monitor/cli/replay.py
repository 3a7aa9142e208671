"""``replay``: dead letters back to where they came from."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from stream_monitor import logs
from stream_monitor.checks import read_config
from stream_monitor.cli.common import Commands, command, config_option, messages, output_file
from stream_monitor.config.model import Config, KafkaSource, SqliteStore
from stream_monitor.decode import timestamps
from stream_monitor.decode.rejects import REASONS
from stream_monitor.errors import SourceError
from stream_monitor.sources.kafka_options import connection_options
from stream_monitor.store.base import DeadLetter
from stream_monitor.store.kafka.replay import (
    MAX_REPLAYS,
    Choice,
    FileLetters,
    Letters,
    Replay,
    Tally,
    TopicLetters,
    partitions_of,
)
from stream_monitor.store.kafka.topics import Topics, connection_of, inputs_of, prefix_of
from stream_monitor.store.kafka.transactions import Transactions

_PATIENCE = 2.0  # seconds before there is a progress bar
_TIMEOUT = 30_000_000  # microseconds of a transaction, where no store says it
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "replay",
        _run,
        summary="feed dead letters back to the topics that they came from, after a fix",
        example="stream-monitor replay --config monitor.yaml --reason unknown_model --dry-run\n"
        "  stream-monitor replay --config monitor.yaml --reason unknown_model",
    )
    config_option(parser)
    parser.add_argument(
        "--reason", type=_reasons, default=[], metavar="R,…", help=f"only: {', '.join(REASONS)}"
    )
    parser.add_argument(
        "--topic", type=_names, default=[], metavar="T,…", help="only letters from these topics"
    )
    for name, what in (("since", "at or after"), ("until", "before")):
        parser.add_argument(
            f"--{name}",
            type=_time,
            metavar="TIME",
            help=f"only records of timestamps {what} it: RFC 3339 or epoch seconds",
        )
    parser.add_argument("--limit", type=_number, metavar="N", help="replay N letters at most")
    parser.add_argument(
        "--max-replays",
        type=_number,
        default=MAX_REPLAYS,
        metavar="N",
        help="pass over those that were replayed more often than this (default: %(default)s)",
    )
    parser.add_argument(
        "--from-beginning",
        action="store_true",
        help="with a Kafka store: begin anew, not where the last replay ended",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="only print what would be replayed")
    instead.add_argument(
        "--output",
        type=output_file,
        metavar="FILE",
        help="write payloads to a file instead, one a line, for letters that come from files; "
        "nothing else changes, so that a second time writes them again",
    )


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _reasons(text: str) -> list[str]:
    names = _names(text)
    if unknown := [name for name in names if name not in REASONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: choose from {', '.join(REASONS)}")
    return names


def _time(text: str) -> int:
    try:
        found = timestamps.of_number(float(text))
    except ValueError:
        found = timestamps.of_text(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: give RFC 3339 or epoch seconds")
    return found


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: give a number, 0 or more")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    logs.configure(config.log)
    writes = not arguments.dry_run and arguments.output is None
    with ExitStack() as stack:
        servers, client = connection_of(config)
        options = {"bootstrap_servers": servers, **connection_options(client)}
        topics = _topics(config, needed=writes) if arguments.output is None else []
        partitions = partitions_of(options, topics) if topics else None
        letters = _letters(config, options, writes=writes, anew=arguments.from_beginning)
        stack.enter_context(closing(letters))
        replay = Replay(
            letters,
            Choice(
                arguments.reason,
                arguments.topic,
                arguments.since,
                arguments.until,
                arguments.max_replays,
            ),
            partitions=partitions,
            take=_taker(arguments.output, stack),
            limit=arguments.limit,
        )
        tally = replay.run(stack.enter_context(_patient_bar()))
    console = Console(markup=False, highlight=False, emoji=False)
    if arguments.dry_run and tally.done:
        console.print(_table(tally))
    verb = "to be replayed" if arguments.dry_run else "replayed"
    for line in _summary(tally, verb if arguments.output is None else f"in {arguments.output}"):
        console.print(line, soft_wrap=True)
    return 0


def _topics(config: Config, *, needed: bool) -> list[str]:
    """Those that letters may be written back to."""
    events, labels = inputs_of(config)
    if needed and not events and not labels:
        raise SourceError(
            "source: dead letters can be written back to Kafka topics only; name a file in "
            "--output to have their payloads, one a line, and feed it to the source"
        )
    return [*events, *labels]


def _letters(config: Config, options: Mapping[str, object], *, writes: bool, anew: bool) -> Letters:
    """Where dead letters lie."""
    # records came compressed, and may be larger without it than their topic takes
    producing = dict(options) | {"compression_type": "gzip"}
    store = config.store
    if isinstance(store, SqliteStore):
        source = config.source
        name = f"{source.group_id if isinstance(source, KafkaSource) else ''}-replay"
        return FileLetters(store.path, Transactions(producing, name, _TIMEOUT) if writes else None)
    name = f"{prefix_of(config, store)}-replay"
    transactions = Transactions(producing, name, store.transaction_timeout) if writes else None
    topic = Topics.of(config, store).dead_letters.name
    return TopicLetters(options, topic, name, transactions, anew=anew)


def _taker(path: Path | None, stack: ExitStack) -> Callable[[DeadLetter], None]:
    """What a letter is given to beside its topic."""
    if path is None:
        return lambda _letter: None
    try:
        file = stack.enter_context(path.open("wb"))
    except OSError as error:
        raise SourceError(f"--output: {error}; name a file that can be written") from None

    def take(letter: DeadLetter) -> None:
        # between the parts of JSON a space is as good as a line's end
        file.write(letter.payload.translate(_LINE_ENDS) + b"\n")

    return take


@contextmanager
def _patient_bar() -> Iterator[Callable[[float], None]]:
    """A progress bar for what takes long."""
    began = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    bar = Progress(*columns, TimeRemainingColumn(), console=messages())
    task = bar.add_task("dead letters", total=1.0)

    def show(done: float) -> None:
        if time.monotonic() - began > _PATIENCE:
            bar.start()
        bar.update(task, completed=done)

    try:
        yield show
    finally:
        bar.stop()


def _table(tally: Tally) -> Table:
    table = Table()
    for heading in ("reason", "topic", "letters", "for example", "detail"):
        table.add_column(heading, justify="right" if heading == "letters" else "left")
    for (reason, topic), number in sorted(tally.done.items()):
        example = tally.examples[reason, topic]
        cells = reason, topic, f"{number:,}", example.place, example.detail
        table.add_row(*map(_shown, cells))
    return table


def _shown(text: str) -> str:
    """Text of a record as a terminal may have it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _summary(tally: Tally, verb: str) -> Iterator[str]:
    reasons: Counter[str] = Counter()
    for (reason, _), number in tally.done.items():
        reasons[reason] += number
    parts = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
    yield f"{reasons.total():,} dead letters {verb}" + (f": {_shown(parts)}" if parts else "")
    for why, number in sorted(tally.passed.items()):
        yield f"{number:,} passed over, {why}"
    if tally.limited:
        yield "stopped at --limit"
