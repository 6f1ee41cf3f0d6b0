"""Which object comes next in a partition, and its sink: never one that exists."""

from __future__ import annotations

import itertools
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from omnistorage.core import ExtendedBackend, Settle, WriteOptions, Writer, power
from omnistorage.delivery.template import Template
from omnistorage.errors import AlreadyExists
from omnistorage.paths import join

Partition = tuple[bool, tuple[str, ...]]
"""Whether it is the late one, and the template's key."""

_REMEMBERED = 10_000
_ATTEMPTS = 100


class Names:
    """The names of one writer's objects. Remembers the next ``{seq}`` of the partitions used last; of others the store
    knows it."""

    def __init__(
        self,
        backend: ExtendedBackend,
        template: Template,
        *,
        prefix: str,
        late_prefix: str,
        source: str,
        now: Callable[[], datetime],
    ) -> None:
        self.backend = backend
        self._template = template
        self._prefix = prefix
        self._late_prefix = late_prefix
        self._source = source
        self._now = now
        self._seqs: OrderedDict[Partition, int] = OrderedDict()

    @property
    def of_records(self) -> bool:
        """Whether records have a say in the names."""
        template = self._template
        return template.needs_fields or (template.needs_time and template.has_record_time)

    def path(self, partition: Partition, *, seq: int = 0, start: int = 0) -> str:
        late, key = partition
        unique = ""
        if "id" in self._template.object_fields:  # like UUID version 7 (RFC 9562): milliseconds, then randomness
            unique = f"{int(self._now().timestamp() * 1000):012x}{uuid.uuid4().hex[:20]}"
        name = self._template.path(key, seq=seq, id=unique, source=self._source, start=start)
        return join(self._prefix, self._late_prefix if late else "", name)

    def published(self, path: str) -> bool:
        """Whether ``path`` was published. A kill may have left it at too few of several stores: then it is now."""
        able = power(self.backend, Settle)
        return self.backend.exists(path) if able is None else able.settle(path)

    def create(self, partition: Partition, start: int, options: WriteOptions) -> tuple[str, Writer]:
        """The path of a new object and a writer for it. Raises ``AlreadyExists`` where no other name can be made."""
        for attempt in itertools.count():
            seq = self._seqs.get(partition)
            if seq is None:
                seq = self._first_seq(partition)
            path = self.path(partition, seq=seq, start=start)
            try:
                if options.overwrite and self.backend.exists(path):  # the store has no way to create only
                    raise AlreadyExists("an object has this name", path=path, op="open_writer")
                sink = self.backend.open_writer(path, options)
            except AlreadyExists:
                if attempt >= _ATTEMPTS or not self._template.object_fields & {"seq", "id"}:
                    raise
                self._remember(partition, seq + 1 if attempt else self._free_seq(partition, seq))
            else:
                self._remember(partition, seq + 1)
                return path, sink
        raise AssertionError

    def _first_seq(self, partition: Partition) -> int:
        """Where this run begins to count. It asks, as some stores tell only at the end that a name is taken."""
        if "seq" not in self._template.object_fields or not self.backend.exists(self.path(partition)):
            return 0
        return self._free_seq(partition, 0)

    def _free_seq(self, partition: Partition, taken: int) -> int:
        """A number above ``taken`` that is free, found in few questions where the taken ones have no gaps."""
        if "seq" not in self._template.object_fields:
            return taken + 1
        step = 1
        while self.backend.exists(self.path(partition, seq=taken + step)):
            taken, step = taken + step, step * 2
        free = taken + step
        while free - taken > 1:
            middle = (taken + free) // 2
            if self.backend.exists(self.path(partition, seq=middle)):
                taken = middle
            else:
                free = middle
        return free

    def _remember(self, partition: Partition, seq: int) -> None:
        self._seqs[partition] = seq
        self._seqs.move_to_end(partition)
        if len(self._seqs) > _REMEMBERED:
            self._seqs.popitem(last=False)
