"""Targets that may be one bucket under two host names.

Two URLs such as ``s3://b?endpoint_url=http://127.0.0.1:9000`` and ``...http://localhost:9000`` may name one bucket: a
write would count for two targets, and there would be one copy. Nothing is asked when the mirror is made. Before the
first change, a small object that is written to one of the two and looked for at the other decides it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

from omnistorage.concurrency.cancellation import Clock
from omnistorage.core import ExtendedBackend
from omnistorage.errors import ConfigError, StorageError
from omnistorage.ops.same_bucket import differ_by_host_alone, overlap

_LOG = logging.getLogger(__name__)
_AGAIN = 60.0
"""Seconds until two stores are asked again of which one did not answer."""

Named = tuple[str, ExtendedBackend]


class SameBuckets:
    """Refuses changes while two of ``stores``, each given with what messages call it, are one bucket."""

    def __init__(self, stores: Sequence[Named], clock: Clock) -> None:
        self._clock = clock
        pairs = combinations(stores, 2)
        self._pairs = [(a, b) for a, b in pairs if differ_by_host_alone(a[1].url, b[1].url)]
        self._due = dict.fromkeys(range(len(self._pairs)), clock.now())

    def check(self) -> None:
        """Ask those that were not told apart yet.

        Raises:
            ConfigError: Two are one bucket, or one is a folder of the other.
        """
        for number, due in tuple(self._due.items()):
            if due <= self._clock.now():
                self._ask(number)

    def _ask(self, number: int) -> None:
        (one, a), (other, b) = self._pairs[number]
        try:
            same = overlap(a, b)
        except StorageError as error:  # a store that is down holds no second copy that could be counted
            _LOG.warning("cannot tell yet whether %s and %s are one bucket: %s", one, other, error)
            self._due[number] = self._clock.now() + _AGAIN
            return
        if same:
            raise ConfigError(
                f"{one} and {other} overlap: {a.url} and {b.url} are one bucket under two host names. "
                "Give each a bucket or folder of its own"
            )
        self._due.pop(number, None)
