"""Records through format, compression and backend: ``open_records``, ``RecordWriter``, ``RecordReader``.

A writer is a format's encoder, a batch, a codec's encoder and a backend's Writer; a reader the same in the other
direction. Here the parts are chosen, by suffix, magic bytes and arguments, and put together.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any, Literal, TypedDict, Unpack, overload

from omnistorage.compression import codec as codec_named
from omnistorage.compression import codec_for_magic, codec_for_path, magic_may_follow
from omnistorage.core import READ, WRITE, Backend, Reader, ReadOptions, WriteOptions
from omnistorage.core.spelling import nearest
from omnistorage.core.stages import Codec, Format, Limit, Same, Stage
from omnistorage.errors import ConfigError
from omnistorage.formats import format_for_path, record_format

from .bad_records import BadRecords, OnError
from .byte_streams import RAW_BLOCK, DecodedReader
from .reader import RecordReader
from .writer import OnException, RecordWriter, known_exit

__all__ = ["OpenSettings", "RecordReader", "RecordWriter", "layers_for", "open_decoded", "open_records", "pick_codec"]

UNTRUSTED_OUTPUT = 16 << 30
UNTRUSTED_RATIO = 1000.0
FROM_STRANGERS: dict[str, Any] = {"schemes": ("http", "https"), "forced": {"untrusted": True}}
"""What ``locate`` is told of a URL that anybody may have chosen."""


class OpenSettings(TypedDict, total=False):
    """The keyword arguments of ``open_records``; all optional."""

    format: str | Format[Any] | None
    compression: str | Codec | None
    options: ReadOptions | WriteOptions | None
    on_error: OnError
    max_bad: int | None
    max_bad_ratio: float | None
    on_exception: OnException
    untrusted: bool
    max_output: int | None
    max_ratio: float | None


@overload
def open_records(target: Any, path: str, mode: Literal["r"], /, **s: Unpack[OpenSettings]) -> RecordReader[Any]: ...
@overload
def open_records(
    target: Any, path: str, mode: Literal["w", "x"], /, **s: Unpack[OpenSettings]
) -> RecordWriter[Any]: ...
@overload
def open_records(
    target: str | PathLike[str], mode: Literal["r"] = "r", /, **s: Unpack[OpenSettings]
) -> RecordReader[Any]: ...
@overload
def open_records(
    target: str | PathLike[str], mode: Literal["w", "x"], /, **s: Unpack[OpenSettings]
) -> RecordWriter[Any]: ...
def open_records(target: Any, path: str = "r", mode: str | None = None, /, **s: Unpack[OpenSettings]) -> Any:
    """Open records for reading (``"r"``), writing (``"w"``), or writing a new object only (``"x"``).

    ``open_records(url_or_path, mode)``, or ``open_records(backend_or_store, path, mode)``. Exactly the given path is
    written, and a suffix that contradicts an argument is a ``ConfigError``.

    Args:
        target: A URL, the path of a file, a backend or a store.
        path: With a URL or file path the mode; with a backend or store the path in it.
        mode: ``"r"``, ``"w"`` or ``"x"``; ``"r"`` if left out.
        format: A format or its name: ``"ndjson"``, ``"csv"``, ``"lines"``, ``"length_prefixed"``. None takes it from
            the suffix (``events.ndjson.gz``).
        compression: A codec or its name: ``"gzip"``, ``"zstd"``, ``"bz2"``, ``"xz"``, ``"lz4"``, ``"snappy"``, or
            ``"none"``. None takes it from the suffix; on reading, magic bytes beat the suffix.
        on_error: What to do with a bad record. ``"raise"`` (the default) raises ``RecordError`` and can be gone on
            behind; ``"skip"`` counts it; ``"collect"`` keeps up to 10,000 errors, ``reader.bad`` iterates over them; a
            callable gets each error; a ``RecordWriter`` gets a dead letter for each.
        max_bad: How many bad records are too many: one more raises ``CorruptData``.
        max_bad_ratio: The same as a share of all records, looked at after 1,000 records and at the end.
        on_exception: What a ``with`` block that raises does to what was written: ``"abort"`` (the default) publishes
            nothing, ``"commit_whole_records"`` publishes the records before.
        options: ``ReadOptions`` or ``WriteOptions`` for the backend.
        untrusted: Whether anybody may have made the input. A text is then a URL of http or https alone, and no private
            address is connected to. Decoding is bounded to 16 GiB and 1,000 times the size of the input, records to
            1 MiB and 100,000 values or 16,384 columns. A codec or format given as a value keeps its own bounds. A file
            is given as a path object, or as a backend and a path.
        max_output: The bytes that decoding may make, at most.
        max_ratio: The same as a multiple of the size of the input.

    Returns:
        A ``RecordReader`` or a ``RecordWriter``. Close it, or use ``with``.

    Raises:
        NotFound: there is no such object. AlreadyExists: mode ``"x"`` met one.
        ConfigError: an argument is wrong, or contradicts the suffix.

    Example:
        >>> import omnistorage
        >>> store = omnistorage.MemoryBackend()
        >>> with omnistorage.open_records(store, "a.ndjson.gz", "w") as writer:
        ...     writer.write({"id": 1})
        >>> list(omnistorage.open_records(store, "a.ndjson.gz"))
        [{'id': 1}]
    """
    unknown = sorted(set(s) - set(OpenSettings.__annotations__))
    if "mode" in unknown:
        raise ConfigError("the mode is the second argument, or the third behind a backend and a path, without a name")
    if unknown:
        raise ConfigError(f"open_records takes no {unknown[0]!r}{nearest(unknown[0], OpenSettings.__annotations__)}")
    owned: Backend | None = None
    if isinstance(target, str | PathLike):
        from omnistorage.config import locate

        if mode is not None:
            raise ConfigError(f"behind a URL or file path stands one mode, not {path!r} and {mode!r}")
        mode = path
        backend, path = locate(target, **(FROM_STRANGERS if s.get("untrusted") else {}))
        owned = backend
    else:
        backend = target.as_backend() if hasattr(target, "as_backend") else target
        mode = "r" if mode is None else mode
    try:
        _refuse_foreign(mode, s)
        if mode == "r":
            return _open_reader(backend, path, s, owned)
        if mode in ("w", "x"):
            return _open_writer(backend, path, mode, s, owned)
        raise ConfigError(f"mode {mode!r}: use 'r', 'w' or 'x'", path=path)
    except BaseException:
        if owned is not None:
            owned.close()
        raise


_READ_ONLY = frozenset({"untrusted", "max_output", "max_ratio"})
_WRITE_ONLY = frozenset({"on_exception"})


def _refuse_foreign(mode: str, s: OpenSettings) -> None:
    """Settings of the other direction would be ignored, so they are refused."""
    foreign = sorted((_WRITE_ONLY if mode == "r" else _READ_ONLY) & set(s))
    if foreign:
        raise ConfigError(f"mode {mode!r} takes no {foreign[0]!r}")


def _policy(s: OpenSettings) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "on_error": s.get("on_error", "raise"),
        "max_bad": s.get("max_bad"),
        "max_bad_ratio": s.get("max_bad_ratio"),
    }
    BadRecords(**policy)  # a wrong policy is refused before anything is opened
    return policy


def _open_reader(backend: Backend, path: str, s: OpenSettings, owned: Backend | None) -> RecordReader[Any]:
    form, policy = _pick_format(path, s.get("format")), _policy(s)
    if s.get("untrusted") and form is not s.get("format"):
        form = _bounded(form)
    options = s.get("options") or READ
    if not isinstance(options, ReadOptions):
        raise ConfigError(f"reading takes ReadOptions, not {type(options).__name__}", path=path)
    if s.get("compression") is not None:
        pick_codec(path, s.get("compression"))  # refuses a contradiction
    source = backend.open_reader(path, options)
    stream = open_decoded(
        source,
        s.get("compression"),
        untrusted=bool(s.get("untrusted")),
        max_output=s.get("max_output"),
        max_ratio=s.get("max_ratio"),
        root=getattr(backend, "url", None),
    )
    try:
        return RecordReader(stream, form, owned=owned, **policy)
    except BaseException:
        stream.close()
        raise


def _open_writer(backend: Backend, path: str, mode: str, s: OpenSettings, owned: Backend | None) -> RecordWriter[Any]:
    form, codec, policy = _pick_format(path, s.get("format")), pick_codec(path, s.get("compression")), _policy(s)
    options = s.get("options") or WRITE
    if not isinstance(options, WriteOptions):
        raise ConfigError(f"writing takes WriteOptions, not {type(options).__name__}", path=path)
    if mode == "x":
        options = replace(options, overwrite=False)
    if options.content_type is None:
        # The type says what the bytes are, compression included. Never Content-Encoding: clients would undo it unasked.
        options = replace(options, content_type=getattr(codec or form, "content_type", None))
    on_exception = known_exit(s.get("on_exception", "abort"))
    sink = backend.open_writer(path, options)
    try:
        return RecordWriter(
            sink,
            form,
            codec,
            owned=owned,
            on_exception=on_exception,
            path=path,
            root=getattr(backend, "url", None),
            **policy,
        )
    except BaseException:
        sink.abort()
        raise


def open_decoded(
    source: Reader,
    compression: str | Codec | None = None,
    *,
    untrusted: bool = False,
    max_output: int | None = None,
    max_ratio: float | None = None,
    root: str | None = None,
) -> DecodedReader:
    """The plain bytes of an object. ``compression=None`` takes the codec from the magic bytes, else from the suffix;
    ``"none"`` takes the bytes as they are. ``untrusted`` lowers the bound on the memory of a codec that was not given
    as a value, and sets ``max_output`` and ``max_ratio`` unless given. Errors name the path below ``root``, the URL of
    the backend. Closes ``source`` if it raises."""
    if untrusted:
        max_output = UNTRUSTED_OUTPUT if max_output is None else max_output
        max_ratio = UNTRUSTED_RATIO if max_ratio is None else max_ratio
    try:
        head = b""
        codec = None
        if compression is None:
            # A live source may give a few bytes at a time: no more are waited for than tell what they are.
            while magic_may_follow(head) and (more := source.read(RAW_BLOCK)):
                head += more
            codec = codec_for_magic(head) or codec_for_path(source.info.path)
        elif compression != "none":
            codec = codec_named(compression)
        if untrusted and codec is not compression:
            codec = _bounded(codec)
        decoder: Stage[bytes, bytes] | None = None if codec is None else codec.decoder()
        if max_output is not None or max_ratio is not None:
            decoder = Limit(decoder or Same(), max_output=max_output, max_ratio=max_ratio)
        return DecodedReader(source, decoder, head=head, root=root)
    except BaseException:
        source.close()
        raise


def _bounded(layer: Any) -> Any:
    """The codec or format as it is for input that anybody may have made, if that makes a difference to it."""
    untrusted = getattr(layer, "untrusted", None)
    return layer if untrusted is None else untrusted()


def layers_for(
    path: str, format: str | Format[Any] | None = None, compression: str | Codec | None = None
) -> tuple[Format[Any], Codec | None]:
    """The format and the codec of an object named ``path``, by its suffixes and the arguments, which must agree."""
    return _pick_format(path, format), pick_codec(path, compression)


def _pick_format(path: str, wanted: str | Format[Any] | None) -> Format[Any]:
    found = format_for_path(path)
    if wanted is None:
        if found is None:
            raise ConfigError("no record format is known by this suffix: give format=", path=path)
        return found
    if found is not None and found.name == wanted:
        return found  # the suffix may say more than the name
    form: Format[Any] = record_format(wanted)
    if found is not None and found.name != form.name:
        raise ConfigError(f"the suffix says {found.name}, format= says {form.name}: make them agree", path=path)
    if found is not None and found.suffixes[0] not in form.suffixes:
        raise ConfigError(f"the suffix says {found!r}, format= says {form!r}: make them agree", path=path)
    return form


def pick_codec(path: str, wanted: str | Codec | None) -> Codec | None:
    """The codec of an object named ``path``, by its suffix where none is wanted; both must agree."""
    found = codec_for_path(path)
    if wanted is None:
        return found
    codec = None if wanted == "none" else codec_named(wanted)
    said = "none" if codec is None else codec.name
    # A path that ends in a format's own suffix says that it is not compressed.
    shown = found.name if found is not None else "none" if format_for_path(path) is not None else said
    if shown != said:
        raise ConfigError(f"the suffix says compression {shown}, the argument says {said}: make them agree", path=path)
    return codec
