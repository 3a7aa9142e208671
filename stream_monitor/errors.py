"""The exceptions of the package.

::

    StreamMonitorError
    ├── ConfigError       the configuration file; carries every problem found, not only the first
    ├── ProfileError      a reference profile that cannot be built, read or used
    ├── SourceError       an input that cannot be opened or read
    └── StoreError        state that cannot be read or written
        └── UnusableError   and waiting does not mend it

Each message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_monitor.config.secrets import masked


class StreamMonitorError(Exception):
    """Root of everything that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where, what stands there, what to do.

    Secrets in what stands there are masked.
    """

    key: str
    value: object
    remedy: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", masked(self.value, self.key))

    def __str__(self) -> str:
        return f"{self.key}: {self.value!r}: {self.remedy}"


class ConfigError(StreamMonitorError):
    """The configuration cannot be used. ``problems`` lists everything that was found."""

    def __init__(self, place: str, problems: list[Problem]) -> None:
        self.place = place
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{place}: {count}", *(f"  {p}" for p in problems)]))


class ProfileError(StreamMonitorError):
    """A reference profile cannot be built, read or used."""


class SourceError(StreamMonitorError):
    """An input cannot be opened or read."""


class LabelError(StreamMonitorError):
    """Labels cannot be read or joined."""


class StoreError(StreamMonitorError):
    """State cannot be read or written."""


class UnusableError(StoreError):
    """State cannot be read, and will not be: somebody must decide what becomes of it."""
