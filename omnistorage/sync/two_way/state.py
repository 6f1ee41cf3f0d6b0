"""What ``bisync`` remembers between runs, and the lock that keeps two runs apart.

``state.json`` names the two saved listings and their digests. It is written last and at once, so a run that dies leaves
the state of the run before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import IO, Any

from omnistorage import ops
from omnistorage.concurrency.cancellation import CLOCK, Clock
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.core import ObjectInfo, WriteOptions
from omnistorage.core.bounded_read import NOTES, WORDS, at_most, read_small, rest_of
from omnistorage.errors import AlreadyExists, CorruptData, NotFound, PreconditionFailed, StorageError
from omnistorage.sync.endpoint import Side

VERSION = 1
STATE, LOCK = "state.json", "lock"
_LISTINGS = ("a", "b")
_BLOCK = 1 << 20
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def plain_row(path: str, info: ObjectInfo) -> list[Any]:
    """What is kept of an object: path, size, time, etag and digests."""
    moment = info.modified_at
    hashes = dict(info.hashes) if info.hashes else None
    return [path, info.size, None if moment is None else moment.isoformat(), info.etag, hashes]


def info_of(row: list[Any]) -> ObjectInfo:
    """The object that ``plain_row`` was made of, under its relative path."""
    path, size, moment, etag, hashes = row
    when = None if moment is None else datetime.fromisoformat(moment).astimezone(UTC)
    return ObjectInfo(path, size, when, etag=etag, hashes=hashes)


def line_of(path: str, info: ObjectInfo) -> bytes:
    return _encode(plain_row(path, info)).encode("ascii") + b"\n"


class Rows:
    """Objects kept in the order in which they came, in an unnamed temporary file. ``add`` may be called by any
    thread; one reader at a time, and none while something is added."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="omnistorage-")  # noqa: SIM115
        self._lock = threading.Lock()

    def add(self, path: str, info: ObjectInfo) -> None:
        self.add_lines(line_of(path, info))

    def add_lines(self, data: bytes) -> None:
        with self._lock:
            self._file.write(data)

    def __iter__(self) -> Iterator[ObjectInfo]:
        self._file.seek(0)
        for line in self._file:
            yield info_of(_decode(line.decode("ascii")))

    def close(self) -> None:
        self._file.close()


class StateFolder:
    """The folder of one pair of places. ``found`` is what ``state.json`` says; empty before the first run."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.found: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        """Read ``state.json``. Raises ``CorruptData`` if it cannot be made out."""
        try:
            data = read_small(self.side.backend, self.side.key(STATE), NOTES)
        except NotFound:
            return {}
        try:
            found = json.loads(data)
            version = found["version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(STATE) from error
        if version != VERSION:
            raise CorruptData(f"the saved state is of version {version!r}, this reads {VERSION}: resync", path=STATE)
        self.found = dict(found)
        return self.found

    def prior(self, which: int) -> Rows:
        """The saved listing of a side, in merge order. Raises ``CorruptData`` unless it is what was saved."""
        try:
            name, sha256 = (str(self.found["listings"][_LISTINGS[which]][key]) for key in ("name", "sha256"))
        except (KeyError, TypeError) as error:
            raise self._damaged(STATE) from error
        rows, running = Rows(), hashlib.sha256()
        try:
            with self.side.backend.open_reader(self.side.key(name)) as reader:
                while block := reader.read(_BLOCK):
                    running.update(block)
                    rows.add_lines(block)
            if running.hexdigest() != sha256:
                raise self._damaged(name)
        except NotFound as error:
            rows.close()
            raise self._damaged(name) from error
        except BaseException:
            rows.close()
            raise
        return rows

    def _damaged(self, name: str) -> CorruptData:
        return CorruptData(
            f"the saved state in {self.side.shown} is damaged or half missing, nothing was changed: "
            "see that both sides are as they should be, then resync",
            path=name,
        )

    def save(self, said: dict[str, Any], listings: Iterable[Iterator[tuple[str, ObjectInfo]]]) -> None:
        """Replace the state. Both listings stand before ``state.json`` names them."""
        run = secrets.token_hex(8)
        written = {}
        for letter, rows in zip(_LISTINGS, listings, strict=True):
            name, running, count = f"{letter}-{run}.ndjson", hashlib.sha256(), 0
            with self.side.backend.open_writer(self.side.key(name)) as writer:
                for path, info in rows:
                    line = line_of(path, info)
                    running.update(line)
                    writer.write(line)
                    count += 1
            written[letter] = {"name": name, "sha256": running.hexdigest(), "objects": count}
        self._put({"version": VERSION, **said, "listings": written})
        self._tidy({str(one["name"]) for one in written.values()})

    def forbid(self, why: str) -> None:
        """Make later runs refuse until ``resync``."""
        self._put({"version": VERSION, **self.found, "critical": why})

    def _put(self, found: dict[str, Any]) -> None:
        data = json.dumps(found, indent=1).encode("ascii")
        ops.write_bytes(self.side.backend, self.side.key(STATE), at_most(data, STATE, NOTES))
        self.found = found

    def _tidy(self, used: set[str]) -> None:
        """Delete listings that no state names any more. What cannot be deleted now is, perhaps, by the next run."""
        with suppress(StorageError):
            for info in list(self.side.backend.list(self.side.prefix)):
                name = self.side.relative(info.path)
                if name.startswith(("a-", "b-")) and name.endswith(".ndjson") and name not in used:
                    self.side.backend.delete(info.path)


class Lock:
    """At most one run for a state folder, for as long as the runs renew their lock within its ``life``.

    An expired lock is taken over. Where the store can neither create conditionally nor replace conditionally, what was
    written is read back, which leaves a moment in which two runs could both believe in theirs; each finds out when it
    renews. ``clock`` measures when to renew, ``now`` is the time of day that expiry is written in.
    """

    def __init__(
        self,
        side: Side,
        life: timedelta,
        clock: Clock = CLOCK,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.side, self.life, self.clock, self.now = side, life, clock, now
        self.token = secrets.token_hex(16)
        self._next = 0.0
        self._mutex = threading.Lock()

    def acquire(self) -> None:
        """Raises ``StorageError``, a transient one, while somebody else holds it."""
        found = self._read()
        if found is not None and not self._is_expired(*found):
            raise self._held(found[0])
        features = self.side.features
        try:
            self._write(found)
        except (AlreadyExists, PreconditionFailed):
            found = self._read()
            raise self._held(found[0] if found else {}) from None
        except BaseException:
            self.release()  # the answer may have been lost, not the lock
            raise
        if not (features.create_only if found is None else features.if_match):
            found = self._read()
            if found is None or found[0].get("token") != self.token:
                raise self._held(found[0] if found else {})

    def touch(self, *, sure: bool = False) -> None:
        """Renew it if a third of its life is over; with ``sure`` now. Raises ``PreconditionFailed`` if another run has
        taken it over."""
        with self._mutex:
            moment = self.clock.now()
            if moment < self._next and not sure:
                return
            try:
                found = self._read()
                if found is None or found[0].get("token") != self.token:
                    raise PreconditionFailed(
                        "another run has taken the lock over, so this one ends here: run it again", path=LOCK
                    )
                self._write(found)
            except PreconditionFailed:
                raise
            except StorageError:
                if sure:
                    raise
                self._next = moment + self.life.total_seconds() / 12  # it still is ours for a while

    def release(self) -> None:
        """Let it go, if it still is ours. What fails leaves it to expire."""
        with suppress(StorageError):
            taking_back(self._remove)

    def _remove(self) -> None:
        found = self._read()
        if found is not None and found[0].get("token") == self.token:
            self.side.backend.delete(self.side.key(LOCK))

    # -- its object ----------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[dict[str, Any], ObjectInfo] | None:
        try:
            with self.side.backend.open_reader(self.side.key(LOCK)) as reader:
                info = reader.info
                try:
                    found = json.loads(rest_of(reader, LOCK, WORDS))
                except (ValueError, RecursionError, CorruptData):
                    return {}, info
        except NotFound:
            return None
        return (found if isinstance(found, dict) else {}), info

    def _write(self, found: tuple[dict[str, Any], ObjectInfo] | None) -> None:
        features = self.side.features
        said = {
            "token": self.token,
            "host": platform.node(),
            "pid": os.getpid(),
            "expires": (self.now() + self.life).isoformat(),
        }
        options = WriteOptions(
            overwrite=found is not None or not features.create_only,
            if_match=found[1].etag if found is not None and features.if_match else None,
        )
        self._next = self.clock.now() + self.life.total_seconds() / 3
        ops.write_bytes(self.side.backend, self.side.key(LOCK), json.dumps(said).encode("ascii"), options)

    def _is_expired(self, said: dict[str, Any], info: ObjectInfo) -> bool:
        """One that cannot be made out lives as long as one of ours, from when it was written."""
        try:
            ends = datetime.fromisoformat(said["expires"])
            return self.now() >= ends
        except (KeyError, TypeError, ValueError):
            return info.modified_at is not None and self.now() >= info.modified_at + self.life

    def _held(self, said: dict[str, Any]) -> StorageError:
        who = f"process {said.get('pid', '?')} on {said.get('host', '?')}"
        return StorageError(
            f"another run ({who}) holds the lock until {said.get('expires', 'it is removed')}; if that run is dead, "
            f"wait, or remove the lock in {self.side.shown}",
            path=LOCK,
            op="bisync",
            transient=True,
        )
