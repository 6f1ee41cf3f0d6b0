"""The open objects of one writer, by partition: which one a record goes to, and when each is full. No locks."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain
from typing import Any

from omnistorage.core import WriteOptions
from omnistorage.core.stages import BATCH_BYTES, Codec, Format, RecordEncoder
from omnistorage.delivery.timer import Timer
from omnistorage.delivery.validation import Rolls
from omnistorage.errors import AlreadyExists, InvalidPath, RecordError
from omnistorage.records import open_records
from omnistorage.records.byte_streams import BLOCK

from .object_names import Names, Partition
from .open_object import OpenObject, measured
from .publisher import Commits

log = logging.getLogger(__name__)
_BLOCKS = 16 << 20
"""What all open objects of one writer hold before their codecs, in bytes; at least 64 KiB each."""


@dataclass
class _Skip:
    """An object that an earlier run has published, whose records come again: ``left`` of them are still to come, and
    ``checker`` tells the bad ones among them, which are not in it. ``head`` has its first record until the one
    that comes in its place has been compared with it."""

    path: str
    records: int
    first: int
    left: int
    checker: RecordEncoder[Any]
    head: list[Any]


class Partitions:
    """``open`` holds them, the least recently used first. ``skipped`` counts the records that were published before.

    What is written is of the format ``form``; ``decoded`` is the one that reads it back as records."""

    def __init__(
        self,
        names: Names,
        commits: Commits,
        rolls: Rolls,
        form: Format[Any],
        codec: Codec | None,
        options: WriteOptions,
        *,
        decoded: Format[Any],
        max_open: int,
        deterministic: bool,
        timer: Timer,
    ) -> None:
        self.open: OrderedDict[Partition, OpenObject] = OrderedDict()
        self._names = names
        self._commits = commits
        self._rolls = rolls
        self._format, self._decoded = form, decoded
        self._codec = codec
        self._options = options
        self._max_open = max_open
        self._block = min(max(_BLOCKS // max_open, BATCH_BYTES), BLOCK)
        self._deterministic = deterministic
        self._timer = timer
        self._skips: dict[Partition, _Skip] = {}
        self._epoch: int | None = None
        self.skipped = 0
        self._warned = False

    @property
    def pending(self) -> list[int]:
        """From where each open object would have to be replayed."""
        epoch = [] if self._epoch is None or not (self.open or self._skips) else [self._epoch]
        return [one.since for one in list(self.open.values()) if one.records] + epoch

    def start(self, partition: Partition, record: Any, number: int) -> OpenObject | None:
        """A new object for ``record``, or None where an earlier run has published the record already. Raises
        ``RecordError`` where no object can have the name that the record makes."""
        try:
            return self._start(partition, record, number)
        except InvalidPath as error:
            if not self._names.of_records:
                raise  # no record is at fault, and so none may be left out for it
            raise RecordError(f"no object can have the name {error.path!r}: {error.args[0]}") from error

    def _start(self, partition: Partition, record: Any, number: int) -> OpenObject | None:
        if len(self.open) >= self._max_open and partition not in self._skips:
            self.roll(next(iter(self.open)))
        since = number
        if self._deterministic:
            # Objects of one epoch interleave, with each other and with those that an earlier run left: nobody may
            # replay from within it. A new one begins where nothing is open and nothing is left to be skipped.
            if self._epoch is None or not (self.open or self._skips):
                self._epoch = number
            since = self._epoch
            if self._published_before(partition, record, number):
                return None
        path, sink = self._names.create(partition, number, self._options)
        backend, now = self._names.backend, self._timer.now()
        opened = OpenObject(backend, path, sink, self._format, self._codec, since, now, self._block)
        self.open[partition] = opened
        return opened

    def _published_before(self, partition: Partition, record: Any, number: int) -> bool:
        skip = self._skips.get(partition)
        if skip is None:
            path = self._names.path(partition, start=number)
            if not self._names.published(path):
                return False
            skip = self._skips[partition] = self._met(path, number)
        data = skip.checker.encode(record)  # a bad record is none of those that were published
        if skip.head and not self._warned and skip.head != self._read(data):
            self._warned = True
            log.warning(
                "%s holds other records than those that come now under the same numbers, from %d on, which are left "
                "out: to write them give this run a source of its own, or a start_sequence behind the last one",
                skip.path,
                skip.first,
            )
        skip.head = []
        self.skipped += 1
        skip.left -= 1
        if skip.left <= 0:
            self._commits.found(
                skip.path,
                lambda: measured(
                    self._names.backend, skip.path, self._codec, records=skip.records, first=skip.first, last=number
                ),
            )
            del self._skips[partition]  # only now: what could not be noted is met again
        return True

    def _met(self, path: str, number: int) -> _Skip:
        """The object at ``path``, whose first record has come again as ``number``."""
        codec, records = self._codec or "none", 0
        head: list[Any] = []
        with open_records(self._names.backend, path, "r", format=self._decoded, compression=codec) as reader:
            for batch in reader.iter_batches():
                head = head or batch[:1]
                records += len(batch)
        if not records:
            raise AlreadyExists("an object without records has the name of the next one: remove it", path=path)
        return _Skip(path, records, number, records, self._format.encoder(), head)

    def _read(self, data: bytes) -> list[Any]:
        """The records in ``data``, as read from an object."""
        decoder = self._decoded.decoder()
        return list(chain.from_iterable([*decoder.feed(data), *decoder.finish()]))

    def after(self, partition: Partition, opened: OpenObject) -> None:
        """A record went in: publish the object if that filled it."""
        limits = self._rolls
        if limits.idle is not None:
            opened.touched = self._timer.now()
        if self._max_open > 1:
            self.open.move_to_end(partition)
        if (
            (limits.records is not None and opened.records >= limits.records)
            or (limits.raw_bytes is not None and opened.writer.raw_bytes >= limits.raw_bytes)
            or (limits.bytes is not None and opened.holds(limits.bytes))
        ):
            self.roll(partition)

    def roll(self, partition: Partition) -> None:
        """Publish the object of ``partition``; with deterministic names those of all partitions, and not before those
        of the last time are published: else a replay could meet a later object where an earlier one is missing."""
        rolled = list(self.open) if self._deterministic else [partition]
        full = [self.open[one] for one in rolled if self.open[one].records]
        if full:
            self._commits.add(full, in_order=self._deterministic)
        for one in rolled:  # only now: each is in one of the two places at any time
            opened = self.open.pop(one)
            if not opened.records:
                opened.writer.abort()  # its only record was a bad one

    def forget(self) -> None:
        """Of what an earlier run published nobody knows any more how much is still to come."""
        self._skips.clear()

    def roll_due(self) -> None:
        """Publish what has become too old."""
        now = self._timer.now()
        for partition in [p for p, one in self.open.items() if self._rolls.due(one.opened, one.touched) <= now]:
            if partition in self.open:
                self.roll(partition)

    @property
    def next_due(self) -> float:
        """When the next object becomes too old."""
        return min((self._rolls.due(one.opened, one.touched) for one in self.open.values()), default=float("inf"))

    def abort(self) -> None:
        """Discard all of them."""
        while self.open:
            self.open.popitem()[1].writer.abort()
