"""The files of a data set, their names, and how one set takes the place of another.

part-00000003-5f0c...-9a1b...-0000.ndjson.zst   records: task, attempt, one writing of the task, number of the part
    _manifest-5f0c....json                          the parts of the set that this attempt makes
    _attempt-5f0c...                                the attempt is at work
    _SUCCESS                                        names the one manifest that counts, and its SHA-256

``_SUCCESS`` is the only object that is ever replaced, so that one write turns the old set into the new one: a manifest
with a name of its own could not change together with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Any, NamedTuple

from omnistorage import ops
from omnistorage.concurrency.cancellation import pause
from omnistorage.concurrency.in_flight import taking_back
from omnistorage.config import locate
from omnistorage.core import (
    Backend,
    BulkDelete,
    ExtendedBackend,
    ObjectInfo,
    StaleUploads,
    WriteOptions,
    as_extended,
    learned,
    power,
)
from omnistorage.core.bounded_read import LINES, WORDS, read_small, rest_of
from omnistorage.delivery.verified_sink import store_bytes
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    MultiError,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.paths import check_new, join, parent

VERSION = 1
SUCCESS = "_SUCCESS"
LOCK = "_lock"
LOCK_AGE = timedelta(minutes=1)
"""Publishing takes two small requests. Who holds the lock longer has died."""

FIELD = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
"""The name of a field by which a set can be partitioned."""

_FOLDER = re.compile(rf"{FIELD}=[^/]*", re.ASCII)
_PART = re.compile(
    rf"(?:{FIELD}=[^/]*/)*part-([A-Za-z0-9_]+)-([0-9a-f]{{16}})-([0-9a-f]{{8}})-([0-9]+)\.[^/]+", re.ASCII
)
_OTHER = re.compile(r"_attempt-([0-9a-f]{16})|_manifest-([0-9a-f]{16})\.json", re.ASCII)


class PartName(NamedTuple):
    """What the name of a part says. Two writings (``tried``) of one task hold the same records."""

    task: str
    attempt: str
    tried: str
    number: int


class Part(NamedTuple):
    """A part of a data set. ``path`` is its place below the prefix of the set, ``sha256`` the digest of its ``bytes``
    bytes as stored, ``raw_bytes`` counts them before compression, ``values`` are the fields it is partitioned by."""

    path: str
    records: int
    bytes: int
    raw_bytes: int
    sha256: str
    values: Mapping[str, str]


def part_name(path: str) -> PartName | None:
    """None for what is no part of a data set, such as one in a folder that is no partition: that is another set's."""
    found = _PART.fullmatch(path)
    return None if found is None else PartName(found[1], found[2], found[3], int(found[4]))


def attempt_of(path: str) -> str | None:
    """The attempt that an object belongs to, by its name; None for somebody else's."""
    part = part_name(path)
    if part is not None:
        return part.attempt
    found = _OTHER.fullmatch(path)
    return None if found is None else found[1] or found[2]


def _set_at(path: str) -> str:
    """The folder that is a data set of its own, as this object in it shows; empty for none."""
    folder, _, name = path.rpartition("/")
    return folder if name == SUCCESS or _OTHER.fullmatch(name) else ""


class Published(NamedTuple):
    """What ``_SUCCESS`` says, and its own etag."""

    manifest: str
    sha256: str
    etag: str | None = None

    def is_same(self, other: Published | None) -> bool:
        return other is not None and self[:2] == other[:2]


class Manifest(NamedTuple):
    """The parts of a set, in order. ``replaced`` are the attempts that made the set before it."""

    attempt: str
    parts: tuple[Part, ...]
    replaced: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"_manifest-{self.attempt}.json"

    @property
    def attempts(self) -> set[str]:
        """Those that made the set."""
        return {self.attempt, *(name.attempt for part in self.parts if (name := part_name(part.path)) is not None)}

    def to_json(self) -> bytes:
        found = {
            "version": VERSION,
            "attempt": self.attempt,
            "records": sum(part.records for part in self.parts),
            "replaced": sorted(self.replaced),
            "parts": [part._asdict() for part in self.parts],
        }
        return json.dumps(found, indent=1, sort_keys=True).encode() + b"\n"


_KINDS = {"path": str, "records": int, "bytes": int, "raw_bytes": int, "sha256": str, "values": dict}


def _manifest(data: bytes, path: str) -> Manifest:
    row = _table(data, path)
    try:
        parts = tuple(Part(**{name: part[name] for name in _KINDS}) for part in row["parts"])
        found = Manifest(row["attempt"], parts, tuple(row["replaced"]))
        good = all(type(part[at]) is kind for part in parts for at, kind in enumerate(_KINDS.values()))
    except (KeyError, TypeError) as error:
        raise CorruptData("this is no manifest of a data set", path=path) from error
    if not good or not all(isinstance(attempt, str) for attempt in (found.attempt, *found.replaced)):
        raise CorruptData("this is no manifest of a data set", path=path)
    return found


def _table(data: bytes, path: str) -> dict[str, Any]:
    try:
        row = json.loads(data)
        version = row["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"DatasetWriter did not write this: {data[:60]!r}", path=path) from error
    if version != VERSION:
        raise CorruptData(f"the data set is of version {version!r}, this reads {VERSION}", path=path)
    found: dict[str, Any] = row
    return found


class Place:
    """A prefix in a backend in which one data set lives. ``copied``: it came by pickle, with a backend of its own."""

    def __init__(self, target: Backend | str | PathLike[str] | Any, prefix: str) -> None:
        self.prefix, self.owned, self.copied = prefix, False, False
        if isinstance(target, str | PathLike):
            target, above = locate(target, is_object=False)
            self.prefix, self.owned = join(above, prefix), True
        elif hasattr(target, "as_backend"):
            target = target.as_backend()
        self.target: Backend = target
        self.backend: ExtendedBackend = ops.extended(target)
        if self.prefix:
            check_new(self.prefix)

    def __str__(self) -> str:
        url = self.backend.url
        return f"{self.backend!r}, {self.prefix!r}" if url is None else repr(url + self.prefix)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "owned": True, "copied": True}

    def close(self) -> None:
        if self.owned:
            self.backend.close()

    def at(self, name: str) -> str:
        return join(self.prefix, name)

    def below(self, path: str) -> str:
        return path[len(self.prefix) + 1 :] if self.prefix else path

    def must_be_writable(self) -> None:
        if as_extended(self.target) is not None and not self.backend.features.atomic_write:
            self.close()
            raise CapabilityNotSupported(
                "readers of this target see half an object", capability="atomic_write", backend=self.backend.name
            )

    def must_be_no_partition(self) -> None:
        """Raise ``ConfigError`` where a data set above has parts: here they would look like those of a dead run."""
        above = self.prefix
        while _FOLDER.fullmatch(above.rpartition("/")[2]):
            above = parent(above)
            try:
                found = Place(self.target, above).current()
            except (CorruptData, PermissionDenied):
                continue  # somebody else's, as is what this key may not read
            parts = () if found is None else found[1].parts
            if any(join(above, part.path).startswith(f"{self.prefix}/") for part in parts):
                raise ConfigError(
                    "this is a partition of another data set: write that one as a whole, or use another prefix",
                    path=self.prefix,
                )

    # -- what is published ---------------------------------------------------------------------------------------------

    def published(self) -> Published | None:
        """What ``_SUCCESS`` says now; None without one."""
        path = self.at(SUCCESS)
        try:
            with self.backend.open_reader(path) as reader:
                data, etag = rest_of(reader, path, WORDS), reader.info.etag
        except NotFound:
            return None
        row = _table(data, path)
        if not isinstance(row.get("manifest"), str) or not isinstance(row.get("sha256"), str):
            raise CorruptData("this names no manifest", path=path)
        return Published(row["manifest"], row["sha256"], etag)

    def manifest(self, found: Published) -> Manifest:
        """The manifest that ``_SUCCESS`` names. ``CorruptData`` for another one under its name."""
        path = self.at(found.manifest)
        data = read_small(self.backend, path, LINES)
        if hashlib.sha256(data).hexdigest() != found.sha256:
            raise CorruptData("this is not the manifest that _SUCCESS names: write the data set again", path=path)
        return _manifest(data, path)

    def current(self) -> tuple[Published, Manifest] | None:
        """What is published; None without ``_SUCCESS``. A set that is replaced meanwhile is looked for again."""
        found = self.published()
        while found is not None:
            try:
                return found, self.manifest(found)
            except (NotFound, CorruptData) as error:
                again = self.published()
                if found.is_same(again):
                    if isinstance(error, NotFound):
                        raise CorruptData(
                            "_SUCCESS names a manifest that is not there: write the data set again", path=error.path
                        ) from error
                    raise
                found = again
        return None

    # -- publication ---------------------------------------------------------------------------------------------------

    def publish(self, new: Published, base: Published | None, *, durable: bool) -> None:
        """Make ``new`` what counts, if that is still ``base``: one winner where the store has conditions. Raises
        ``OutcomeUnknown`` from a ``MultiError`` where it counts in one of several stores and in another it does not."""
        row = {"version": VERSION, "manifest": new.manifest, "sha256": new.sha256}
        data = json.dumps(row, sort_keys=True).encode() + b"\n"
        features, path = learned(self.backend), self.at(SUCCESS)

        def write(**conditions: Any) -> None:
            try:
                store_bytes(self.backend, path, data, WriteOptions(durable=durable, **conditions))
            except MultiError as error:
                if all(one.state in ("failed", "aborted") for one in error.outcomes):
                    raise
                raise OutcomeUnknown(
                    "the data set is published at some targets and not at others: nothing was removed, repair them",
                    path=path,
                ) from error

        if base is None:
            if not features.create_only:
                self.must_be(base)
            try:
                write(overwrite=not features.create_only)
            except AlreadyExists as error:
                raise AlreadyExists("another run has published this data set meanwhile", path=path) from error
        elif features.if_match and base.etag is not None:
            write(if_match=base.etag)
        elif features.create_only:
            with self._locked(base):
                self.must_be(base)
                write()
        else:
            self.must_be(base)
            write()

    def must_be(self, base: Published | None) -> None:
        """Raise if what is published is not ``base``."""
        found = self.published()
        if base is not None and not base.is_same(found):
            raise PreconditionFailed("another run has published this data set meanwhile", path=self.at(SUCCESS))
        if base is None and found is not None:
            raise AlreadyExists("another run has published this data set meanwhile", path=self.at(SUCCESS))

    @contextmanager
    def _locked(self, base: Published) -> Iterator[None]:
        """For stores that can create only, but replace whatever is there."""
        path = self.at(LOCK)
        while True:
            try:
                ops.write_bytes(self.backend, path, b"", WriteOptions(overwrite=False))
                break
            except AlreadyExists:
                self.must_be(base)
                if not self.unlock(LOCK_AGE, lambda: datetime.now(UTC)):
                    pause(0.05, op="publish", path=path)
        try:
            yield
        except BaseException:
            with suppress(StorageError):  # the first error is told
                taking_back(lambda: self.backend.delete(path))
            raise
        taking_back(lambda: self.backend.delete(path))

    def unlock(self, age: timedelta, now: Callable[[], datetime]) -> bool:
        """Remove a lock of that age: its holder has died."""
        path = self.at(LOCK)
        try:
            with self.backend.open_reader(path) as reader:
                made = reader.info.modified_at
        except NotFound:
            return True
        if made is None or made + age > now():
            return False
        self.backend.delete(path)
        return True

    # -- listing and removing ------------------------------------------------------------------------------------------

    def of_attempt(self, attempt: str) -> dict[str, int | None]:
        """The objects of one attempt, below the prefix, and their sizes."""
        return {info.path: info.size for info in self._listed() if attempt_of(info.path) == attempt}

    def _listed(self) -> Iterator[ObjectInfo]:
        try:
            for info in self.backend.list(self.prefix):
                yield info._replace(path=self.below(info.path))
        except NotFound:  # not even the folder, which the first write makes; or the bucket, which it misses
            return

    def remove(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Remove objects below the prefix, and the folders that become empty; returns those that are still there."""
        names = list(paths)
        left = tuple(self._removed(names))
        if self.backend.features.dirs:
            folders = {folder for name in names for folder in _above(name)}
            for folder in sorted(folders, key=len, reverse=True):
                try:
                    self.backend.rmdir(self.at(folder))
                except StorageError:
                    pass  # there is something in it
        return left

    def _removed(self, names: list[str]) -> Iterator[str]:
        bulk = power(self.backend, BulkDelete)
        if bulk is not None and names:
            try:
                results = list(bulk.delete_many([self.at(name) for name in names]))
                yield from (self.below(path) for path, error in results if error is not None)
            except StorageError:
                yield from names
            return
        for name in names:
            try:
                self.backend.delete(self.at(name))
            except StorageError:
                yield name

    def clean(self, manifest: Manifest | None, age: timedelta, now: Callable[[], datetime]) -> None:
        """Remove what runs that ended or died have left: at once what attempts known by ``manifest`` did not publish,
        that of others once the newest object of the attempt is of that ``age``. Nobody else's objects are touched, nor
        those of a data set that lies in a folder of this one."""
        keep = set() if manifest is None else {manifest.name, *(part.path for part in manifest.parts)}
        ended = set() if manifest is None else manifest.attempts.union(manifest.replaced)
        found: dict[str, list[tuple[str, datetime | None]]] = {}
        others: set[str] = set()
        locked = False
        for info in self._listed():
            locked = locked or info.path == LOCK
            others.add(_set_at(info.path))
            attempt = attempt_of(info.path)
            if attempt is not None and info.path not in keep:
                found.setdefault(attempt, []).append((info.path, info.modified_at))
        limit = now() - age
        superfluous = [
            path
            for attempt, objects in found.items()
            if attempt in ended or max((made or datetime.max.replace(tzinfo=UTC)) for _, made in objects) <= limit
            for path, _ in objects
            if others.isdisjoint(_above(path))
        ]
        self.remove(superfluous)
        if locked:
            self.unlock(min(age, LOCK_AGE), now)
        stale = power(self.backend, StaleUploads)
        if stale is not None:
            try:
                stale.remove_stale_uploads(self.prefix, older_than=age)
            except StorageError:
                pass  # a key that may write need not be allowed to look for them


def _above(name: str) -> Iterator[str]:
    while name := parent(name):
        yield name
