"""``ResumableWriter``: records into one object, over as many lives of a process as it takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Any, Self

from omnistorage.concurrency.pools import forks
from omnistorage.config import locate
from omnistorage.core import WRITE, Backend, WriteOptions, as_extended
from omnistorage.core.stages import Codec, Format, Headed, Stage, StageBase
from omnistorage.delivery.long_retry import patient
from omnistorage.delivery.validation import Seconds, seconds
from omnistorage.delivery.verified_sink import Metered
from omnistorage.errors import ConfigError
from omnistorage.paths import check_new, check_prefix
from omnistorage.records import RecordWriter, layers_for
from omnistorage.records.bad_records import OnError
from omnistorage.records.writer import OnException

from .checkpoints import Suspended, clean
from .token import VERSION, Token, behind, checked, must_agree, must_be_plain, options_of, plain, settings_of

PART = 8 << 20
Target = Backend | str | PathLike[str] | Any


class ResumableWriter(RecordWriter[Any]):
    """A ``RecordWriter`` that a later process takes up where ``checkpoint`` was asked for.

    ``target`` and ``path`` as for ``open_records``: a backend and a path in it, or a URL alone. ``checkpoint`` returns
    a token of plain JSON; ``ResumableWriter.resume(target, token)``, in any process and on any machine, goes on behind
    the last record before it. What was written later is not there: write it again. No byte is lost or doubled.

    Of all checkpoints the last two can be resumed from, so there is a good one at any moment as long as each token is
    kept before the next is asked for. A token is no secret. It names the tail by length and digest, and the parts by
    theirs: what does not match is ``CorruptData``. One process at a time may go on with an object; where two do,
    nothing wrong is published, and one of them fails.

    *Where it is.* S3 keeps the parts of an upload; the tail, no longer than a part, is an object below
    ``<path>.resume/``, and while one is there ``StaleUploads`` leaves the uploads of that path alone. On any other
    store the parts (of ``part_size`` bytes; S3 has its own) lie there too, and every byte is written twice and read
    once. Listings show them. ``close`` publishes and removes all that, as far as the store can list; ``discard``
    removes it without publishing.

    *What it costs.* A checkpoint stores the tail and ends the frame of the codec, as ``flush`` does. The next frame
    knows nothing of what came before, which costs ratio: ``docs/guides/delivery.md`` has figures.

    *The end.* ``abort``, an exception, garbage collection, a kill and a ``close`` that fails discard what came after
    the last checkpoint and keep that; without one they discard everything (in stores other than S3 a kill and garbage
    collection leave parts for ``clean``). Of a process that died between publication and its note of it, ``resume``
    says ``AlreadyExists`` where the store keeps user metadata, in which ``omnistorage_resume`` says whose an object
    is. Elsewhere it is ``NotFound``, or goes on and publishes the same once more.

    ``options`` travel in the token, and ``durable`` holds for each checkpoint as well; ``size`` and ``expect`` cannot
    be known beforehand and are refused. A request that fails is tried again for ``retry_for`` (seconds or timedelta; a
    minute; None: as the target's ``RequestPolicy`` says). ``records`` and ``bad.count`` go on from life to life,
    ``max_bad`` with them.
    """

    _over = False

    def __init__(
        self,
        target: Target,
        path: str | None = None,
        *,
        format: str | Format[Any] | None = None,
        compression: str | Codec | None = None,
        part_size: int = PART,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: OnException = "abort",
        options: WriteOptions = WRITE,
        retry_for: Seconds | None = 60.0,
        _token: Mapping[str, Any] | None = None,
    ) -> None:
        if type(part_size) is not int or part_size < 1:
            raise ConfigError(f"part_size is a number of bytes from 1 up, not {part_size!r}")
        wait = seconds("retry_for", retry_for)
        backend, path, owned = _place(target, path)
        if (extended := as_extended(backend)) is not None:  # others have no policy to retry by
            backend = patient(extended, wait)
        sink = None
        try:
            form, codec = layers_for(check_new(path), format, compression)
            if _token is None:
                must_be_plain(options, path)
                self._mark, self._begun = uuid.uuid4().hex, None
            else:
                must_agree(_token, form, codec, path)
                self._mark, self._begun, options = _token["id"], _token["begun"], options_of(_token["options"])
            self._options = plain(options)
            rest = behind(form, self._begun, path)
            if options.content_type is None:
                options = replace(options, content_type=getattr(codec or form, "content_type", None))
            self._suspended = Suspended(backend, path, self._mark, options, part_size)
            self._sink = sink = self._suspended.open() if _token is None else self._suspended.go_on(_token)
            held = _token["bytes"] if _token is not None else 0
            super().__init__(
                Metered(sink, backend, path, held, digests=False),
                rest,
                None if codec is None else _Frames(codec, bool(_token and _token["bytes"])),
                on_error=on_error,
                max_bad=max_bad,
                max_bad_ratio=max_bad_ratio,
                on_exception=on_exception,
                owned=owned,
                path=path,
                root=getattr(backend, "url", None),
            )
        except BaseException:
            if sink is not None:
                sink.abort()
            if owned is not None:
                owned.close()
            raise
        self.format, self.codec = form, codec
        if _token is not None:
            self._count, self._handed, self.bad.count = _token["records"], _token["raw_bytes"], _token["bad"]

    @classmethod
    def resume(
        cls,
        target: Target,
        token: Token,
        *,
        format: str | Format[Any] | None = None,
        compression: str | Codec | None = None,
        part_size: int = PART,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: OnException = "abort",
        retry_for: Seconds | None = 60.0,
    ) -> Self:
        """Go on from ``token``, a mapping or its JSON text. ``target`` is the backend, or the same URL as before; path
        and options are those of the token. Raises ``NotFound`` where nothing of it is left, ``AlreadyExists`` where it
        was published, ``CorruptData`` where what is there is not what the token says, ``ConfigError`` for no token and
        for a format or compression that contradicts it."""
        read = checked(token)
        return cls(
            target,
            None if isinstance(target, str | PathLike) else read["path"],
            format=format,
            compression=compression,
            part_size=part_size,
            on_error=on_error,
            max_bad=max_bad,
            max_bad_ratio=max_bad_ratio,
            on_exception=on_exception,
            retry_for=retry_for,
            _token=read,
        )

    @staticmethod
    def discard(target: Target, token: Token) -> None:
        """Remove what the writer of ``token`` keeps at the store; again: nothing. What was published stays. An upload
        that was begun after the token is left to ``StaleUploads``."""
        read = checked(token)
        backend, path, owned = _place(target, None if isinstance(target, str | PathLike) else read["path"])
        try:
            if path != read["path"]:
                raise ConfigError(f"the token is of {read['path']!r}", path=path, op="discard")
            Suspended(backend, path, read["id"], options_of(read["options"]), PART).discard(read)
        finally:
            if owned is not None:
                owned.close()

    @staticmethod
    def clean(
        target: Target, prefix: str = "", *, older_than: timedelta = timedelta(hours=1), checkpoints: bool = False
    ) -> int:
        """Remove what writers below ``prefix`` have left that died before their first checkpoint, empty folders too,
        and return of how many. What was written to since ``older_than`` is never touched; what has a checkpoint only
        where ``checkpoints`` says that nobody has a token any more. Uploads are then left to ``StaleUploads``."""
        backend, folder, owned = _place(target, prefix, is_object=False)
        try:
            return clean(backend, check_prefix(folder), older_than, checkpoints, datetime.now(UTC))
        finally:
            if owned is not None:
                owned.close()

    def checkpoint(self) -> dict[str, Any]:
        """Bring everything written so far to the store, so that the returned token finds it there."""
        self.flush()
        if self._begun is None and isinstance(self.format, Headed):
            self._begun = self.format.begun(self._encoder)
        return {
            "version": VERSION,
            "id": self._mark,
            "path": self._path,
            "format": self.format.name,
            "settings": settings_of(self.format),
            "compression": None if self.codec is None else self.codec.name,
            "options": self._options,
            "begun": self._begun,
            "records": self.records,
            "bad": self.bad.count,
            "raw_bytes": self.raw_bytes,
            **self._suspended.checkpoint(self._sink),
        }

    def _disown(self) -> None:
        """Comes once it is closed or aborted."""
        if self._forks != forks[0]:
            return  # what there is belongs to the process that opened it
        if not self._over and (self.result is not None or not self._suspended.has_checkpoint):
            self._over = True
            self._suspended.end()
        super()._disown()


def _place(target: Target, path: str | None, *, is_object: bool = True) -> tuple[Backend, str, Backend | None]:
    if isinstance(target, str | PathLike):
        if path:
            raise ConfigError(f"behind a URL or file path stands no second one: {path!r}")
        backend, path = locate(target, is_object=is_object)
        return backend, path, backend
    if path is None:
        raise ConfigError("give a backend and a path in it, or a URL")
    if hasattr(target, "as_backend"):
        target = target.as_backend()
    if not hasattr(target, "open_writer"):
        raise ConfigError(f"a target is a backend, a Store or a URL, not {type(target).__name__}")
    return target, path, None


# -- frames ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frames:
    """A codec whose ``flush`` ends the frame, so that another encoder may go on there. ``begun``: there is one."""

    inner: Codec
    begun: bool

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.inner.suffixes

    @property
    def magic(self) -> bytes:
        return self.inner.magic

    def encoder(self) -> Stage[bytes, bytes]:
        return _FrameEncoder(self.inner, self.begun)

    def decoder(self) -> Stage[bytes, bytes]:
        return self.inner.decoder()


class _FrameEncoder(StageBase[bytes, bytes]):
    def __init__(self, codec: Codec, begun: bool) -> None:
        self._codec, self._begun = codec, begun
        self._frame: Stage[bytes, bytes] | None = None

    def _feed(self, item: bytes) -> Iterator[bytes]:
        if item:
            if self._frame is None:
                self._frame, self._begun = self._codec.encoder(), True
            yield from self._frame.feed(item)

    def _flush(self) -> Iterator[bytes]:
        frame, self._frame = self._frame, None
        if frame is not None:
            yield from frame.finish()

    def _finish(self) -> Iterator[bytes]:
        if not self._begun:
            self._frame = self._codec.encoder()  # nothing, encoded, is not nothing
        yield from self._flush()
