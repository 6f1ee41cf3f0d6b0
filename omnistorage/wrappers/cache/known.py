"""What a cache knows of objects: which state was seen when, and whether that may still be believed."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from secrets import token_hex
from typing import NamedTuple

from omnistorage.core import Backend, ObjectInfo, Resolve, power
from omnistorage.errors import StorageError
from omnistorage.paths import is_under

from .index import entry_name

REMEMBERED = 1 << 16
_STRIPES = 1 << 10
_OF_ONE_PROCESS = re.compile(r"(^|\+)(memory|channel):|:memory:")


Chain = tuple[str, ...]


class Known(NamedTuple):
    """An object as it was at ``at``, by the cache's clock. ``token`` is its etag, or where it has none its fingerprint;
    ``name`` that of its entry; ``generation`` that of its path when the question was sent."""

    info: ObjectInfo
    token: str
    by_etag: bool
    name: str
    at: float
    generation: tuple[int, int]


_NOTHING: dict[Chain, Known] = {}


class Knowledge:
    """The latest known state of each path, of the 65,536 asked about last.

    A confined cache and the one around it share this, but no answer: ``chain`` names the folders that the one who asks
    is confined to, each within the one before. What one is told through a link, another must not be.

    Every path has a generation, which ``expire`` changes. What was asked before is not believed after: neither what is
    remembered, nor an answer that was under way.
    """

    def __init__(self, origin: Backend) -> None:
        self._origin = origin
        self._resolver = power(origin, Resolve)
        self._token = token_hex(16)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, dict[Chain, Known]] = OrderedDict()
        self._epoch = 0
        self._stripes = [0] * _STRIPES

    def generation(self, path: str) -> tuple[int, int]:
        return self._epoch, self._stripes[hash(path) % _STRIPES]

    def recall(self, path: str, chain: Chain) -> Known | None:
        return self._known.get(path, _NOTHING).get(chain)

    def is_current(self, path: str, known: Known) -> bool:
        return known.generation == self.generation(path)

    def recognise(
        self, path: str, info: ObjectInfo, at: float, generation: tuple[int, int], before: Known | None
    ) -> Known | None:
        """The state that ``info`` tells of; None where nothing tells it from others."""
        if info.kind != "file":
            return None
        token, kind = info.etag, "etag"
        if before is not None and before.by_etag and token == before.token:
            return Known(info, before.token, True, before.name, at, generation)
        if token is None and self._resolver is not None:
            token, kind = self._resolver.resolve(path).fingerprint, "fingerprint"
        if token is None:
            return None
        name = entry_name(self._identity(), path, kind, token)
        return Known(info, token, kind == "etag", name, at, generation)

    def name_by_fingerprint(self, path: str) -> str | None:
        """The entry of an object whose only token is a fingerprint, without I/O; None where there is none."""
        try:
            token = None if self._resolver is None else self._resolver.resolve(path).fingerprint
        except StorageError:
            token = None
        return None if token is None else entry_name(self._identity(), path, "fingerprint", token)

    def _identity(self) -> str:
        """What tells the origin from all others, in this process or any."""
        url: str | None = getattr(self._origin, "url", None)
        return self._token if url is None or _OF_ONE_PROCESS.search(url) else url

    def remember(self, path: str, chain: Chain, known: Known) -> None:
        """Unless the path was expired since the question was sent, or a later answer came before."""
        with self._lock:
            older = self.recall(path, chain)
            if not self.is_current(path, known) or (older is not None and older.at > known.at):
                return
            self._known.setdefault(path, {})[chain] = known
            self._known.move_to_end(path)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def expire(self, path: str, *, folder: bool, forget: bool) -> list[Known]:
        """Believe nothing of ``path``, as a ``folder`` nor of what is under it, that was asked before now. What was
        remembered of them; it stays to be told from what comes next, unless told to ``forget``."""
        with self._lock:
            if folder:
                self._epoch += 1
                paths = [key for key in self._known if key == path or is_under(key, path)]
            else:
                self._stripes[hash(path) % _STRIPES] += 1
                paths = [path] if path in self._known else []
            told = [self._known.pop(key) if forget else self._known[key] for key in paths]
            return [known for of_path in told for known in of_path.values()]
