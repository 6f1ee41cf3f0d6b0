"""``ResumableWriter``: records into one object, over as many lives of a process as it takes.

Floor 3: imports floors 0 and 2 only.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Any, Self, TypeVar

from ..bad_records import OnError
from ..core import WRITE, Backend, WriteOptions
from ..errors import ConfigError
from ..paths import check_new, check_prefix
from ..record_writer import RecordWriter
from ..records import layers_for
from ..registry import locate
from ..stages import Codec, Format, Headed, Stage, StageBase
from ._suspended import Suspended, clean

T = TypeVar("T")
VERSION = 1
PART = 8 << 20
Target = Backend | str | PathLike[str] | Any


class ResumableWriter(RecordWriter[T]):
    """A ``RecordWriter`` that a later process takes up where ``checkpoint`` was asked for.

    ``target`` and ``path`` as for ``open_records``: a backend and a path in it, or a URL alone. ``checkpoint`` returns
    a token of plain JSON; ``ResumableWriter.resume(target, token)``, in any process and on any machine, goes on behind
    the last record before it. What was written later is not there: write it again. No byte is lost or doubled.

    Of all checkpoints the last two can be resumed from, so there is a good one at any moment as long as each token is
    kept before the next is asked for. A token is no secret. It names the tail by length and digest, and the parts by
    theirs: what does not match, or was gone on with by somebody else meanwhile, is ``CorruptData``. One process at a
    time may go on with an object.

    *Where it is.* S3 keeps the parts of an upload; the tail, no longer than a part, is an object below
    ``<path>.resume/``, and while one is there ``StaleUploads`` leaves the upload alone. On any other store the parts
    (of ``part_size`` bytes) lie there too, and every byte is written twice and read once. ``close`` publishes and
    removes all that; ``discard`` removes it without publishing.

    *What it costs.* A checkpoint stores the tail and ends the frame of the codec. The next frame knows nothing of what
    came before, which costs ratio: ``docs/guides/delivery.md`` has figures.

    *The end.* ``abort``, an exception, garbage collection, a kill and a ``close`` that fails discard what came after
    the last checkpoint and keep that; without one they discard everything (a kill, in stores other than S3, leaves
    parts for ``clean``). A process that died between publication and its note of it gets ``AlreadyExists`` from
    ``resume`` where the store keeps user metadata, and ``NotFound`` elsewhere.

XX
    """

    def __init__(
        self,
        target: Target,
        path: str | None = None,
        *,
        format: str | Format[T] | None = None,
        compression: str | Codec | None = None,
        part_size: int = PART,
        on_error: OnError = "raise",
        max_bad: int | None = None,
        max_bad_ratio: float | None = None,
        on_exception: str = "abort",
        options: WriteOptions = WRITE,
        _token: Mapping[str, Any] | None = None,
    ) -> None:
        if type(part_size) is not int or part_size < 1:
            raise ConfigError(f"part_size is a number of bytes from 1 up, not {part_size!r}")
        backend, path, owned = _place(target, path)
        sink = None
        try:
            form, codec = layers_for(check_new(path), format, compression)
            if _token is None:
                _must_be_plain(options, path)
                self._mark, self._begun = uuid.uuid4().hex, None
            else:
                _must_agree(_token, form, codec, path)
                self._mark, self._begun, options = _token["id"], _token["begun"], _options(_token["options"])
            self._path, self._form, self._settings = path, form, _plain(options)
            if options.content_type is None:
                options = replace(options, content_type=getattr(codec or form, "content_type", None))
            self._suspended = Suspended(backend, path, self._mark, options, part_size)
            self._sink = sink = self._suspended.open() if _token is None else self._suspended.go_on(_token)
            begun = bool(_token and _token["bytes"])
            super().__init__(
                sink,
                form.behind(self._begun) if self._begun is not None and isinstance(form, Headed) else form,
                None if codec is None else _Frames(codec, begun),
                on_error=on_error,
                max_bad=max_bad,
                max_bad_ratio=max_bad_ratio,
                on_exception=on_exception,
                owned=owned,
            )
        except BaseException:
            if sink is not None:
                sink.abort()
            if owned is not None:
                owned.close()
            raise
        self.format, self.codec = form, codec
        if _token is not None:
            self._count, self._handed = _token["records"], _token["raw_bytes"]

    @classmethod
    def resume(cls, target: Target, token: Mapping[str, Any] | str | bytes, **settings: Any) -> Self:
        """Go on from ``token``, a mapping or its JSON text. ``target`` is the backend, or the URL of the object;
        ``settings`` are those of the constructor but for ``path`` and ``options``, which the token has. Raises
        ``NotFound`` where nothing of it is left, ``AlreadyExists`` where it was published, ``CorruptData`` where what
        is there is not what the token says, ``ConfigError`` for no token and for settings that contradict it."""
        read = _checked(token)
        if {"path", "options", "_token"} & set(settings):
            raise ConfigError("path and options of a writer that is resumed are those of the token")
        return cls(target, None if isinstance(target, str | PathLike) else read["path"], _token=read, **settings)

    @staticmethod
    def discard(target: Target, token: Mapping[str, Any] | str | bytes) -> None:
        """Remove all that the writer of ``token`` keeps at the store, published or not; again: nothing. What was
        published stays."""
        read = _checked(token)
        backend, path, owned = _place(target, None if isinstance(target, str | PathLike) else read["path"])
        try:
            if path != read["path"]:
                raise ConfigError(f"the token is of {read['path']!r}", path=path, op="discard")
            Suspended(backend, path, read["id"], _options(read["options"]), PART).discard(read)
        finally:
            if owned is not None:
                owned.close()

    @staticmethod
    def clean(
        target: Target, prefix: str = "", *, older_than: timedelta = timedelta(hours=1), checkpoints: bool = False
    ) -> int:
        """Remove what writers below ``prefix`` have left that died before their first checkpoint, and return of how
        many. What was written to since ``older_than`` is never touched; what has a checkpoint only where
        ``checkpoints`` says that nobody has a token any more. Uploads are then left to ``StaleUploads``."""
        backend, folder, owned = _place(target, prefix, is_object=False)
        try:
            return clean(backend, check_prefix(folder), older_than, checkpoints, datetime.now(UTC))
        finally:
            if owned is not None:
                owned.close()

    def checkpoint(self) -> dict[str, Any]:
        """Bring everything written so far to the store, so that the returned token finds it there."""
        self.flush()
        if self._begun is None and isinstance(self._form, Headed):
            self._begun = self._form.begun(self._encoder)
        return {
            "version": VERSION,
            "id": self._mark,
            "path": self._path,
            "format": self.format.name,
            "compression": None if self.codec is None else self.codec.name,
            "options": self._settings,
            "begun": self._begun,
            "records": self.records,
            "raw_bytes": self.raw_bytes,
            **self._suspended.checkpoint(self._sink),
        }

    def _disown(self) -> None:
        """Comes once it is closed or aborted."""
        suspended, published = self._suspended, self.result is not None
        if not self._over and (published or not suspended.has_checkpoint):
            self._over = True
            suspended.end()
        super()._disown()

    _over = False


def _place(target: Target, path: str | None, *, is_object: bool = True) -> tuple[Backend, str, Backend | None]:
    if isinstance(target, str | PathLike):
        if path:
            raise ConfigError(f"behind a URL or file path stands no second one: {path!r}")
        backend, path = locate(target, is_object=is_object)
        return backend, path, backend
    if path is None:
        raise ConfigError("give a backend and a path in it, or a URL")
    return (target.as_backend() if hasattr(target, "as_backend") else target), path, None


# -- the token ---------------------------------------------------------------------------------------------------------


def _must_be_plain(options: WriteOptions, path: str) -> None:
    if options.size is not None or options.expect:
        raise ConfigError("size and expect of what is written in several lives cannot be held", path=path)
    try:
        json.dumps(_plain(options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the options have to fit into JSON: {error}", path=path) from error


def _plain(options: WriteOptions) -> dict[str, Any]:
    modified = options.modified_at
    return {
        "overwrite": options.overwrite,
        "if_match": options.if_match,
        "durable": options.durable,
        "modified_at": None if modified is None else modified.isoformat(),
        "user_metadata": None if options.user_metadata is None else dict(options.user_metadata),
        "extra": None if options.extra is None else dict(options.extra),
        "content_type": options.content_type,
    }


def _options(plain: Mapping[str, Any]) -> WriteOptions:
    modified = plain["modified_at"]
    return WriteOptions(**{**plain, "modified_at": None if modified is None else datetime.fromisoformat(modified)})


def _checked(token: Mapping[str, Any] | str | bytes) -> dict[str, Any]:
    try:
        read = dict(json.loads(token) if isinstance(token, str | bytes) else token)
        if read["version"] != VERSION:
            raise ValueError(f"its version is {read['version']!r}, not {VERSION}")
        tail, counts = dict(read["tail"]), [read["records"], read["raw_bytes"], read["bytes"]]
        texts = [read["path"], read["format"], read["compression"] or "", tail["sha256"]]
        if not re.fullmatch("[0-9a-f]{32}", read["id"]) or not all(type(one) is str for one in texts):
            raise ValueError("its texts are not")
        if any(type(count) is not int or count < 0 for count in (*counts, tail["bytes"])):
            raise ValueError("it counts what cannot be")
        _options(read["options"])
        return {**read, "upload": read["upload"], "begun": read["begun"], "tail": tail}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this is no token of a checkpoint: {error!r}") from error


def _must_agree(token: Mapping[str, Any], form: Format[Any], codec: Codec | None, path: str) -> None:
    told = {"path": path, "format": form.name, "compression": None if codec is None else codec.name}
    for name, value in told.items():
        if token[name] != value:
            raise ConfigError(f"the token is of {name} {token[name]!r}, not {value!r}", path=path, op="resume")
    if token["begun"] is not None and not isinstance(form, Headed):
        raise ConfigError(f"the format {form.name!r} cannot go on behind what was written", path=path, op="resume")


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
