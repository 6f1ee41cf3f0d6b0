"""``DatasetWriter``: one data set written by many workers, of which all is visible or nothing.

It runs on any ``concurrent.futures.Executor``: threads, processes, Dask.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from omnistorage import ops
from omnistorage.core import WRITE, Backend, WriteOptions
from omnistorage.core.bounded_read import LINES, at_most
from omnistorage.core.lifecycle import Closes
from omnistorage.core.stages import Codec, Format
from omnistorage.delivery.rolling_writer import RollingRecordWriter
from omnistorage.delivery.template import OBJECT_FIELDS
from omnistorage.delivery.validation import rolls
from omnistorage.delivery.verified_sink import store_bytes
from omnistorage.errors import (
    AlreadyExists,
    ConfigError,
    CorruptData,
    MultiError,
    NotFound,
    OutcomeUnknown,
    StorageError,
)
from omnistorage.paths import join, parent
from omnistorage.records import layers_for

from .layout import FIELD, Manifest, Part, PartName, Place, Published, part_name

T = TypeVar("T")
_IF_EXISTS = ("error", "replace", "append")
_TASK = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_FIELD = re.compile(FIELD, re.ASCII)
DAY = timedelta(days=1)


class Dataset(NamedTuple):
    """A data set that was published: its parts in order, those that were appended to included. ``left`` are paths of
    superfluous objects that could not be removed; nobody sees them, and the next run removes them."""

    attempt: str
    manifest: str
    parts: tuple[Part, ...]
    left: tuple[str, ...]

    @property
    def records(self) -> int:
        return sum(part.records for part in self.parts)

    @property
    def bytes(self) -> int:
        """As stored."""
        return sum(part.bytes for part in self.parts)

    @property
    def raw_bytes(self) -> int:
        """Before compression."""
        return sum(part.raw_bytes for part in self.parts)


@dataclass(frozen=True)
class _Settings:
    format: Format[Any]
    codec: Codec | None
    roll_bytes: int | None
    roll_records: int | None
    partition_by: tuple[str, ...]
    missing: str | None
    max_open: int
    options: WriteOptions
    if_exists: str
    clean_after: timedelta

    @property
    def suffix(self) -> str:
        return self.format.suffixes[0] + ("" if self.codec is None else self.codec.suffixes[0])


class DatasetWriter(Closes):
    """Writes one data set, the objects below ``prefix`` of ``target``, from many workers.

    ``target`` is a backend, anything with ``as_backend()``, or a URL. For workers in other processes it must pickle:
    ``MemoryBackend`` and secrets given as text refuse. A set is parts in ``format`` and ``compression``, a manifest and
    ``_SUCCESS``, which names the manifest; ``DatasetReader`` sees what that says and nothing else. A share of more than
    ``roll_bytes`` (as stored) or ``roll_records`` becomes several parts. ``partition_by`` names fields whose values
    become folders (``service=web/``, percent-encoded), at most ``max_open`` of them open in each worker; ``missing``
    stands in for one that a record lacks.

    ``if_exists``: a set that is there is an error (``AlreadyExists``), is replaced, or is appended to. Publication is
    one write: until then the old set is whole, from then on the new one, and only then are the old parts removed. Who
    reads an old set while its parts are removed gets an error, never a mixture. Of two runs at once one wins, where the
    store creates only or has conditions; the other raises ``AlreadyExists`` or ``PreconditionFailed``, and its parts
    are removed. In a store that has neither, let one run at a time write.

    A run that fails removes its parts. A run that is killed leaves parts that nobody sees: a later run removes them
    once the newest object of that attempt is ``clean_after`` old, by the clocks of the store and of ``now``; and so it
    does with the uploads below ``prefix`` whose writers have died (``StaleUploads``). No other object is touched, nor a
    data set in a folder of this one; a ``prefix`` that is a partition of another set is refused (``ConfigError``).
    """

    def __init__(
        self,
        target: Backend | str | PathLike[str] | Any,
        prefix: str = "",
        *,
        format: str | Format[Any] = "ndjson",
        compression: str | Codec | None = "zstd",
        roll_bytes: int | None = 128 << 20,
        roll_records: int | None = None,
        partition_by: str | Sequence[str] = (),
        missing: str | None = None,
        max_open: int = 128,
        if_exists: str = "error",
        options: WriteOptions = WRITE,
        clean_after: timedelta = DAY,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if if_exists not in _IF_EXISTS:
            raise ConfigError(f"if_exists={if_exists!r}: use one of {', '.join(_IF_EXISTS)}")
        if not isinstance(clean_after, timedelta) or clean_after < timedelta(0):
            raise ConfigError(f"clean_after is a timedelta, not {clean_after!r}")
        rolls(bytes=roll_bytes, raw_bytes=None, records=roll_records, age=None, idle=None)
        if type(max_open) is not int or max_open < 1:
            raise ConfigError(f"max_open is a number of objects from 1 up, not {max_open!r}")
        fields = _fields(partition_by)
        form, codec = layers_for("data", format, compression)
        self._settings = _Settings(
            form, codec, roll_bytes, roll_records, fields, missing, max_open, options, if_exists, clean_after
        )
        self._now = now
        self._place = Place(target, prefix)
        self._place.must_be_writable()

    def __repr__(self) -> str:
        return f"DatasetWriter({self._place})"

    def close(self) -> None:
        """Close the backend, if it was opened for a URL."""
        self._place.close()

    def run(
        self,
        executor: Executor,
        function: Callable[[T], Iterable[Any]],
        inputs: Iterable[T],
        *,
        in_flight: int | None = None,
    ) -> Dataset:
        """Write the records of ``function(item)`` for every one of ``inputs``, and publish them as one set, in the
        order of the inputs.

        ``function`` runs in the workers. ``inputs`` are taken as they are needed: at most ``in_flight`` (by default
        twice the executor's workers) wait or run. The first error ends it: what waits is cancelled, what runs is waited
        for, the parts are removed, and the error is raised with a note of the input it was at. A pool that lost a
        process is shut down, so that none of its others writes on. Where an executor says that it has cancelled what
        still runs (Dask), a worker removes its parts itself when it sees that the attempt is over.
        """
        if in_flight is not None and (type(in_flight) is not int or in_flight < 1):
            raise ConfigError(f"in_flight is a number from 1 up, not {in_flight!r}")
        most = in_flight or 2 * (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
        job = self.begin()
        try:
            with _beating(job):
                parts = _shares(job, executor, function, inputs, most)
        except BaseException as error:
            _noted(error, job)
            raise
        return job.commit(parts)

    def begin(self) -> DatasetJob:
        """Begin an attempt: the same in steps, for workers that are no executor. Removes what earlier runs left."""
        self._place.must_be_no_partition()
        found = self._place.current()
        if found is not None and self._settings.if_exists == "error":
            raise AlreadyExists("there is a data set: if_exists='replace' or 'append'", path=self._place.prefix)
        self._place.clean(found[1] if found else None, self._settings.clean_after, self._now)
        job = DatasetJob(self._place, uuid.uuid4().hex[:16], self._settings, found[0] if found else None)
        job.touch()
        return job


def _fields(given: str | Sequence[str]) -> tuple[str, ...]:
    """What a set is partitioned by. Raises ``ConfigError``."""
    if not isinstance(given, str | Sequence):
        raise ConfigError(f"partition_by is the name of a field, or several of them in order, not {given!r}")
    fields = (given,) if isinstance(given, str) else tuple(given)
    for field in fields:
        if not isinstance(field, str) or not _FIELD.fullmatch(field) or field in (*OBJECT_FIELDS, "time"):
            raise ConfigError(f"a field called {field!r} cannot partition a data set: give it another name")
        if fields.count(field) > 1:
            raise ConfigError(f"partition_by names the field {field!r} twice: name it once")
    return fields


@dataclass(frozen=True)
class DatasetJob:
    """One attempt at a data set. It pickles: ``write_part`` in any worker, ``commit`` or ``abort`` in one place."""

    place: Place
    attempt: str
    settings: _Settings
    base: Published | None

    @property
    def _mark(self) -> str:
        return f"_attempt-{self.attempt}"

    def touch(self) -> None:
        """Show that the attempt is alive. ``run`` does it by itself; a job that writes nothing for longer than
        ``clean_after`` is taken for dead, and cannot be published any more."""
        ops.write_bytes(self.place.backend, self.place.at(self._mark), self.attempt.encode())

    def stay_alive(self) -> None:
        """``touch`` without its errors. Who was taken for dead stays dead: its parts may be gone."""
        try:
            if self.place.backend.exists(self.place.at(self._mark)):
                self.touch()
        except StorageError:
            pass  # what it is for is seen when the set is published

    def write_part(self, task: int | str, records: Iterable[Any]) -> list[Part]:
        """Write the share of one task and return its parts, none for no records. What is written twice, as a worker is
        thought dead and its task run again, is taken once. Where the attempt was aborted meanwhile the parts are
        removed, and ``StorageError`` is raised."""
        name = f"{task:08d}" if type(task) is int and task >= 0 else task
        if not isinstance(name, str) or not _TASK.fullmatch(name):
            raise ConfigError(f"a task is a number from 0 up or a short name of letters and digits, not {task!r}")
        s = self.settings
        folders = "".join(f"{field}={{{field}}}/" for field in s.partition_by)
        stem = f"part-{name}-{self.attempt}-{uuid.uuid4().hex[:8]}"
        above = self.place.prefix.replace("{", "{{").replace("}", "}}")
        found: list[Part] = []
        with RollingRecordWriter(
            self.place.target,
            join(above, f"{folders}{stem}-{{seq:04d}}{s.suffix}"),
            format=s.format,
            compression=s.codec or "none",
            roll_bytes=s.roll_bytes,
            roll_records=s.roll_records,
            missing=s.missing,
            max_open=s.max_open,
            options=s.options,
            on_commit=lambda done: found.append(self._part(done)),
        ) as writer:
            writer.write_many(records)
        if found and not self.place.backend.exists(self.place.at(self._mark)):
            self.place.remove(part.path for part in found)
            raise StorageError("this attempt is over: nobody waits for its parts any more", path=self.place.at(stem))
        return sorted(found, key=lambda part: part.path)  # they were published side by side

    def _part(self, done: Any) -> Part:
        path = self.place.below(done.path)
        values = {
            field: unquote(folder[len(field) + 1 :], errors="surrogatepass")
            for field, folder in zip(self.settings.partition_by, parent(path).split("/"), strict=False)
        }
        return Part(path, done.records, done.bytes, done.raw_bytes, done.sha256, values)

    def commit(self, parts: Iterable[Part]) -> Dataset:
        """Publish ``parts``, all that the ``write_part`` of each task returned, as the data set.

        If it cannot be published the attempt is aborted, and the error raised: of the store, ``CorruptData`` for parts
        that are not there as they were written, ``AlreadyExists`` or ``PreconditionFailed`` if another run was faster.
        Only ``OutcomeUnknown`` leaves everything in place: when the store does not say whether it has published, and
        when several stores are written at once (``MultiBackend``) and only some of them have.
        """
        try:
            self.stay_alive()  # or a run that begins now removes what is being published
            taken = self._taken(list(parts))
            superfluous = self._checked(taken)
            manifest, replaced = self._manifest(taken)
            self._publish(manifest)
        except OutcomeUnknown:
            raise
        except BaseException as error:
            _noted(error, self)
            raise
        left = self.place.remove([*superfluous, *replaced])
        return Dataset(self.attempt, manifest.name, manifest.parts, left)

    def _taken(self, parts: list[Part]) -> list[Part]:
        """Of each task one writing, in the order of tasks."""
        first: dict[str, str] = {}
        taken: dict[str, tuple[tuple[str, str, int], Part]] = {}
        for part in parts:
            if not isinstance(part, Part):
                raise ConfigError(f"commit takes the parts of all tasks in one list, not {part!r:.80}")
            name = self._own(part.path)
            if first.setdefault(name.task, name.tried) == name.tried:
                taken[part.path] = (name.task, parent(part.path), name.number), part
        return [part for _, part in sorted(taken.values(), key=lambda pair: pair[0])]

    def _own(self, path: str) -> PartName:
        name = part_name(path)
        if name is None or name.attempt != self.attempt:
            raise ConfigError("this part was not written by this attempt", path=path)
        return name

    def _checked(self, taken: list[Part]) -> list[str]:
        """The objects of the attempt that will not be needed. Raises if the needed ones are not there."""
        found = self.place.of_attempt(self.attempt)
        if self._mark not in found:
            current = self.place.current()
            if current is not None and self.attempt in current[1].attempts:
                raise AlreadyExists("this attempt is published already", path=self.place.at(current[1].name))
            raise StorageError(
                "another run has taken this attempt for dead: make clean_after longer, and run it again",
                path=self.place.at(self._mark),
            )
        for part in taken:
            if found.get(part.path, -1) not in (part.bytes, None):
                raise CorruptData("the part is not there as it was written", path=self.place.at(part.path))
        wanted = {part.path for part in taken}
        written = {self._own(path)[:3] for path in wanted}
        superfluous = [path for path in found if path not in wanted]
        for path in superfluous:
            name = part_name(path)
            if name is not None and name[:3] in written:
                raise ConfigError("of this task other parts were given, this one was not", path=path)
        return superfluous

    def _manifest(self, taken: list[Part]) -> tuple[Manifest, list[str]]:
        """The new manifest, and what it makes superfluous."""
        self.place.must_be(self.base)
        if self.base is None:
            return Manifest(self.attempt, tuple(taken), ()), []
        try:
            old = self.place.manifest(self.base)
        except NotFound:
            self.place.must_be(self.base)
            raise
        kept = old.parts if self.settings.if_exists == "append" else ()
        gone = [old.name, *(part.path for part in old.parts if not kept)]
        return Manifest(self.attempt, (*kept, *taken), tuple(sorted(old.attempts))), gone

    def _publish(self, manifest: Manifest) -> None:
        data, durable = manifest.to_json(), self.settings.options.durable
        only = self.place.backend.features.create_only
        options = WriteOptions(overwrite=not only, durable=durable, content_type="application/json")
        new = Published(manifest.name, hashlib.sha256(data).hexdigest())
        path = self.place.at(manifest.name)
        store_bytes(self.place.backend, path, at_most(data, path, LINES), options, new.sha256)
        try:
            self.place.publish(new, self.base, durable=durable)
        except Exception as error:
            if isinstance(error, OutcomeUnknown) and isinstance(error.__cause__, MultiError):
                raise  # at some targets: what one of them says is not so at the others
            if not self._happened(new, error):
                raise

    def _happened(self, new: Published, error: Exception) -> bool:
        """Whether it was published in spite of ``error``."""
        try:
            found = self.place.published()
        except StorageError:
            raise OutcomeUnknown(
                "the data set may be published or not: nothing was removed, read it to see", path=self.place.prefix
            ) from error
        return new.is_same(found)

    def abort(self) -> tuple[str, ...]:
        """Remove what the attempt has written; nothing of it was visible. Returns what could not be removed.
        Idempotent, and never touches what is published. Not to be called behind an ``OutcomeUnknown``."""
        place = self.place
        try:
            found = place.current()
            if found is not None and self.attempt in found[1].attempts:
                return ()
            marked = place.remove([self._mark])  # first: who still writes sees that it is gone, and removes its parts
            return marked + tuple(path for path in place.remove(place.of_attempt(self.attempt)) if path not in marked)
        except StorageError:
            return (self._mark,)


def _noted(error: BaseException, job: DatasetJob) -> None:
    left = job.abort()
    if left:
        error.add_note(f"objects of the attempt {job.attempt} are left, seen by nobody; a later run removes them")


# -- on an executor ----------------------------------------------------------------------------------------------------


def _share(job: DatasetJob, function: Callable[[Any], Iterable[Any]], task: int, item: Any) -> list[Part]:
    """In the worker."""
    try:
        return job.write_part(task, function(item))
    finally:
        if job.place.copied:
            job.place.close()


@contextmanager
def _beating(job: DatasetJob) -> Iterator[None]:
    """The attempt shows that it is alive, whatever its inputs and its workers wait for."""
    beat = min(job.settings.clean_after, DAY).total_seconds() / 4
    over = threading.Event()

    def beats() -> None:
        while not over.wait(beat):
            job.stay_alive()

    thread = threading.Thread(target=copy_context().run, args=(beats,), name="omnistorage-attempt", daemon=True)
    if beat:  # without an age everybody takes it for dead at once
        thread.start()
    try:
        yield
    finally:
        over.set()
        if beat:
            thread.join()  # a mark that came behind the end would stay


def _shares(
    job: DatasetJob, executor: Executor, function: Callable[[T], Iterable[Any]], inputs: Iterable[T], most: int
) -> list[Part]:
    running: dict[Future[list[Part]], tuple[int, T]] = {}
    parts: list[Part] = []
    numbered = enumerate(inputs)
    try:
        while True:
            for task, item in itertools.islice(numbered, most - len(running)):
                with _noting(task, item):  # a pool that is broken already takes none
                    running[executor.submit(_share, job, function, task, item)] = task, item
            if not running:
                return parts
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda one: running[one][0]):
                with _noting(*running.pop(future)):
                    parts += future.result()
    except BaseException as error:
        wait([future for future in running if not future.cancel()])
        if isinstance(error, BrokenExecutor):
            executor.shutdown()
        raise


@contextmanager
def _noting(task: int, item: Any) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"a data set was being written, input {task}: {item!r:.200}")
        raise
