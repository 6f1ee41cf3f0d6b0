"""What happens to records that cannot be decoded or encoded: one policy for readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeGuard

from omnistorage.errors import ConfigError, CorruptData, RecordError


class DeadLetters(Protocol):
    """What a ``RecordWriter`` has that dead letters need."""

    format: Any

    def write(self, record: Any, /) -> Any: ...
    def write_many(self, records: Any, /) -> Any: ...


OnError = Literal["raise", "skip", "collect"] | Callable[[RecordError], object] | DeadLetters
"""``"raise"``, ``"skip"``, ``"collect"``, a callable that takes the ``RecordError``, or a ``RecordWriter``."""

MAX_COLLECTED = 10_000
MAX_KEPT = 16 << 20
"""The most bytes of bad records that ``collect`` keeps."""


class BadRecords:
    """What to do with bad records, and how many are too many.

    ``raise``: the error comes at the bad record's place; reading can go on behind it. ``skip``: counted.
    ``collect``: kept in ``errors`` (at most 10,000, and 16 MiB of their bytes; then counted only). A callable gets each
    error. A ``RecordWriter`` gets a dead letter: the raw bytes if its format is ``lines``, else a dict of number,
    offset, error and raw.
    More than ``max_bad`` bad records, or than ``max_bad_ratio`` of all once 1,000 were seen and at the end, raise
    ``CorruptData``.
    """

    def __init__(self, on_error: OnError = "raise", max_bad: int | None = None, max_bad_ratio: float | None = None):
        if isinstance(on_error, str) and on_error not in ("raise", "skip", "collect"):
            raise ConfigError(f"on_error={on_error!r}: use raise, skip, collect, a callable or a RecordWriter")
        if not isinstance(on_error, str) and not callable(on_error) and not _is_record_writer(on_error):
            raise ConfigError(f"on_error={on_error!r}: use raise, skip, collect, a callable or a RecordWriter")
        if max_bad is not None and max_bad < 0:
            raise ConfigError(f"max_bad={max_bad}: use a count from 0")
        if max_bad_ratio is not None and not 0 <= max_bad_ratio <= 1:
            raise ConfigError(f"max_bad_ratio={max_bad_ratio}: use a share between 0 and 1")
        self.on_error = on_error
        self.max_bad = max_bad
        self.max_bad_ratio = max_bad_ratio
        self.count = 0
        self.errors: list[RecordError] = []
        self._kept = 0

    def __repr__(self) -> str:
        return f"BadRecords(on_error={self.on_error!r}, count={self.count})"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[RecordError]:
        """The errors that ``on_error="collect"`` has kept."""
        return iter(self.errors)

    def handle(self, error: RecordError) -> None:
        """Deal with one bad record: raises it, or whatever the limits or the handler raise."""
        self.count += 1
        if self.on_error == "collect":
            self._kept += len(error.raw)
            if len(self.errors) < MAX_COLLECTED and self._kept <= MAX_KEPT:
                self.errors.append(error)
        elif _is_record_writer(self.on_error):
            self.on_error.write(_dead_letter(error, self.on_error.format.name))
        elif callable(self.on_error):
            self.on_error(error)
        if self.max_bad is not None and self.count > self.max_bad:
            raise CorruptData(f"{self.count} bad records, max_bad={self.max_bad}", path=error.path) from error
        if self.on_error == "raise":
            raise error

    def check_ratio(self, good: int, path: str | None, *, final: bool = False) -> None:
        """Hold ``max_bad_ratio`` against the records seen so far."""
        total = good + self.count
        if self.max_bad_ratio is None or not self.count or (total < 1000 and not final):
            return
        if self.count > self.max_bad_ratio * total:
            raise CorruptData(
                f"{self.count} of {total} records are bad, max_bad_ratio={self.max_bad_ratio:g}", path=path
            )


def _is_record_writer(handler: Any) -> TypeGuard[DeadLetters]:
    return hasattr(handler, "write_many") and hasattr(handler, "format")


def _dead_letter(error: RecordError, format_name: str) -> Any:
    if format_name == "lines":
        return error.raw
    letter: dict[str, Any] = {"number": error.number, "offset": error.offset, "error": str(error.args[0])}
    try:
        letter["raw"] = error.raw.decode()
    except UnicodeDecodeError:
        import base64

        letter["raw_base64"] = base64.b64encode(error.raw).decode()
    return letter
