"""What can be derived from the protocols, once for all backends.

Every product asks ``extended(backend)`` once, when it is given it, and then relies on flags. Nothing here holds a whole
object, except ``read_bytes`` and ``write_bytes``, whose purpose that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import (
    COPY,
    LIST,
    READ,
    WRITE,
    Backend,
    CopyOptions,
    Data,
    ExtendedBackend,
    Features,
    Glob,
    ListOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    WriteOptions,
    Writer,
    as_extended,
    features_of,
    power,
)
from omnistorage.core.external_sort import sorted_entries
from omnistorage.errors import (
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    NotFound,
    PreconditionFailed,
    StorageError,
)
from omnistorage.globs import CompiledGlob, compile_glob, literal_folder
from omnistorage.paths import is_under, is_walkable, parent

from .copying import ResumingReader, pump, take_back
from .copying import verify as check_copy
from .same_bucket import is_one_object

BLOCK = 1 << 20


class BasicView:
    """A basic backend with the six further methods, all of which refuse, and truthful features."""

    url: str | None = None

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name = getattr(inner, "name", None) or type(inner).__name__
        self.features: Features = features_of(inner)

    def power_of(self, kind: type) -> None:
        return None

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        return self.inner.open_reader(path, options)

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        return self.inner.open_writer(path, options)

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        return self.inner.delete(path) if if_match is None else self.inner.delete(path, if_match=if_match)

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, options)

    def close(self) -> None:
        self.inner.close()

    def _refuse(self, flag: str, path: str) -> NoReturn:
        raise CapabilityNotSupported(
            f"{self.name} is a basic backend: it does not support {flag}",
            capability=flag,
            backend=self.name,
            path=path,
        )

    def stat(self, path: str) -> ObjectInfo:
        self._refuse("stat", path)

    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        self._refuse("list_dir", path)

    def mkdir(self, path: str) -> None:
        self._refuse("dirs", path)

    def rmdir(self, path: str) -> None:
        self._refuse("dirs", path)

    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        self._refuse("copy", src)

    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        self._refuse("move", src)


def extended(backend: Backend | Any) -> ExtendedBackend:
    """The backend itself, or a view of a basic one with the flags off. Takes anything with ``as_backend()``."""
    if hasattr(backend, "as_backend"):
        backend = backend.as_backend()
    return as_extended(backend) or BasicView(backend)


def read_bytes(backend: Backend, path: str, options: ReadOptions = READ) -> bytes:
    """The whole object, or the range in ``options``, in memory."""
    with backend.open_reader(path, options) as reader:
        return reader.read(-1)


def read_at_most(backend: Backend, path: str, most: int) -> bytes:
    """The whole object in memory; of one that is longer than ``most`` bytes no more than shows that."""
    data = bytearray()
    with backend.open_reader(path) as reader:
        while len(data) <= most and (more := reader.read(min(BLOCK, most + 1 - len(data)))):
            data += more
    return bytes(data)


def write_bytes(backend: Backend, path: str, data: Data, options: WriteOptions = WRITE) -> ObjectInfo:
    """Write ``data`` as one object; whatever goes wrong, the old content stays."""
    with backend.open_writer(path, options) as writer:
        writer.write(data)
        return writer.close()


def same_place(a: Backend, b: Backend) -> bool:
    """Whether two backends are known to have the same root: the same object, or the same ``url``."""
    a, b = (one.inner if isinstance(one, BasicView) else one for one in (a, b))
    if a is b:
        return True
    url = getattr(a, "url", None)
    return url is not None and url == getattr(b, "url", None)


def copy(
    source: Backend,
    src: str,
    target: Backend,
    dst: str,
    options: CopyOptions = COPY,
    *,
    progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Copy one object, server-side where both are the same place and it can, else streamed.

    Streamed, nothing appears unless every byte arrived: the size and the digests that the source states are held
    against what was read. Content type, user metadata and modification time are kept where both sides can. Onto itself
    it changes nothing. ``progress`` gets the bytes of each step.
    """
    from_, to = extended(source), extended(target)
    if src == dst and same_place(from_, to):
        return _onto_itself(to, src, options, "copy")
    if to.features.copy and same_place(from_, to):
        info = to.copy(src, dst, options)
        if progress is not None and info.size:
            progress(info.size)
        return info
    read = READ if options.source_if_match is None else ReadOptions(if_match=options.source_if_match)
    with (
        from_.open_reader(src, read) as reader,
        to.open_writer(dst, _write_options(reader.info, to.features, options)) as writer,
    ):
        _pump(reader, writer, progress)
        return writer.close()


def move(
    source: Backend,
    src: str,
    target: Backend,
    dst: str,
    options: CopyOptions = COPY,
    *,
    progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Move one object; a streamed move deletes the source only if it is still what was read. Onto itself: nothing.
    Where two buckets of one name have different hosts, a small object that is written and removed shows whether they
    are one."""
    from_, to = extended(source), extended(target)
    if (src == dst and same_place(from_, to)) or is_one_object(to, dst, from_, src):
        return _onto_itself(to, dst, options, "move")
    moved = _moved(from_, to, src, dst, options)
    if moved is not None:
        return moved
    before = _info(from_, src)
    info = copy(from_, src, to, dst, options, progress=progress)
    if info.size is not None and before.size is not None and info.size != before.size:
        raise CorruptData("the copy has another size than the source; the source is kept", path=dst, op="move")
    if from_.features.if_match and before.etag is not None:
        try:
            from_.delete(src, if_match=before.etag)
            return info
        except CapabilityNotSupported:
            pass  # conditions on writes alone: some S3 servers
    now = _info(from_, src)
    if (now.etag, now.size, now.modified_at) != (before.etag, before.size, before.modified_at):
        raise PreconditionFailed("the source changed while it was moved; it is kept", path=src, op="move")
    from_.delete(src)
    return info


def _moved(from_: ExtendedBackend, to: ExtendedBackend, src: str, dst: str, options: CopyOptions) -> ObjectInfo | None:
    """What the target moved by itself, or None where it cannot: it has no such power, does not reach the source, or
    the two are on different file systems."""
    if not to.features.move:
        return None
    if not same_place(from_, to):
        if type(from_) is not type(to) or hasattr(from_, "inner"):  # what wraps another backend wants to see the bytes
            return None
        options = replace(options, source=from_)
    try:
        return to.move(src, dst, options)
    except CapabilityNotSupported as error:
        if error.capability not in ("source", "atomic_move"):
            raise
        return None


def transfer(
    source: Backend,
    src: str,
    target: Backend,
    dst: str,
    options: CopyOptions = COPY,
    *,
    verify: bool = True,
    policy: RequestPolicy | None = None,
    progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Copy one object through this process, verified end to end and resumed where reading breaks off.

    A transient error while reading is tried again within ``policy``, from where it broke off, if the source can
    read ranges and tells versions apart (by etag, or by size and time); a source that changed meanwhile is
    ``PreconditionFailed``. Nothing appears unless every byte arrived and is what the source states. ``verify`` then
    holds what the target stored against it, by the digest that the target states or by reading the copy back: a
    copy that differs is removed, and ``CorruptData`` raised; one that somebody replaced first is
    ``PreconditionFailed``. Content type, user metadata and time are kept where both sides can. Onto itself nothing
    changes.
    """
    from_, to = extended(source), extended(target)
    if src == dst and same_place(from_, to):
        return _onto_itself(to, src, options, "transfer")
    read = READ if options.source_if_match is None else ReadOptions(if_match=options.source_if_match)
    reader = ResumingReader(from_, src, read, policy or RequestPolicy())
    try:
        with to.open_writer(dst, _write_options(reader.info, to.features, options)) as writer:
            digests = pump(reader, writer.write, progress)
            info = writer.close()
    finally:
        reader.close()
    if verify:
        try:
            check_copy(to, dst, info, digests)
        except CorruptData as error:
            if not take_back(to, dst, info):
                error.add_note("the damaged copy could not be removed")
            raise
    return info


def sorted_list(
    backend: Backend,
    prefix: str = "",
    *,
    start_after: str | None = None,
    on_error: Callable[[StorageError], None] | None = None,
) -> Iterator[ObjectInfo]:
    """Every object under ``prefix`` in the order of the keys' UTF-8 bytes: the store's own listing where it is sorted,
    else sorted in temporary files, with bounded memory and at most some 130 of them open."""
    store = extended(backend)
    options = ListOptions(start_after=start_after, on_error=on_error)
    return store.list(prefix, options) if store.features.sorted_list else sorted_entries(store, prefix, options)


def _onto_itself(backend: ExtendedBackend, path: str, options: CopyOptions, op: str) -> ObjectInfo:
    """Nothing changes, but what was required must hold."""
    if options.user_metadata is not None:
        raise ConfigError("copying an object onto itself changes nothing: use set_metadata", path=path, op=op)
    wanted = {options.if_match, options.source_if_match} - {None}
    if wanted and not backend.features.if_match:
        raise CapabilityNotSupported(capability="if_match", backend=backend.name, path=path, op=op)
    info = _info(backend, path)
    if wanted - {info.etag}:
        raise PreconditionFailed("the object is not the one expected", path=path, op=op, backend=backend.name)
    return info


def _info(backend: ExtendedBackend, path: str) -> ObjectInfo:
    if backend.features.stat:
        return backend.stat(path)
    with backend.open_reader(path) as reader:
        return reader.info


def _write_options(info: ObjectInfo, to: Features, options: CopyOptions) -> WriteOptions:
    metadata = info.metadata if options.user_metadata is None else options.user_metadata
    return WriteOptions(
        overwrite=options.overwrite,
        if_match=options.if_match,
        modified_at=info.modified_at if to.set_modified else None,
        user_metadata=metadata if to.user_metadata or options.user_metadata else None,
        expect={name: value for name, value in (info.hashes or {}).items() if name in ("md5", "sha256", "crc32c")},
        content_type=info.content_type,
        size=info.size,
    )


def _pump(reader: Reader, writer: Writer, progress: Callable[[int], None] | None) -> None:
    while block := reader.read(BLOCK):
        writer.write(block)
        if progress is not None:
            progress(len(block))


def walk(
    backend: Backend,
    prefix: str = "",
    *,
    descend: Callable[[str], bool] | None = None,
    folders: bool = False,
    on_error: Callable[[StorageError], None] | None = None,
) -> Iterator[ObjectInfo]:
    """Every object under ``prefix``; with ``folders`` also the folders, each before what is in it.

    ``descend(folder)`` says whether to look into a folder: one that is not descended into is not listed, where the
    backend can list folder by folder. Without either argument it is the backend's own flat listing.
    """
    store = extended(backend)
    options = ListOptions(on_error=on_error)
    if descend is None and not folders:
        yield from store.list(prefix, options)
    elif lists_folders(store):
        yield from _walk_dirs(store, prefix, descend, folders, on_error)
    else:
        yield from _walk_flat(store, prefix, descend, folders, options)


def lists_folders(backend: Backend) -> bool:
    """Whether ``walk`` can list folder by folder, in the order of the keys: not a basic backend."""
    return not isinstance(backend, BasicView) and as_extended(backend) is not None


def _walk_dirs(
    store: ExtendedBackend,
    folder: str,
    descend: Callable[[str], bool] | None,
    folders: bool,
    on_error: Callable[[StorageError], None] | None,
) -> Iterator[ObjectInfo]:
    stack = [_children(store, folder, on_error, root=True)]
    while stack:
        info = next(stack[-1], None)
        if info is None:
            stack.pop()
        elif not info.is_dir:
            yield info
        else:
            if folders:
                yield info
            if is_walkable(info.path, on_error) and (descend is None or descend(info.path)):
                stack.append(_children(store, info.path, on_error))


def _children(
    store: ExtendedBackend, folder: str, on_error: Callable[[StorageError], None] | None, *, root: bool = False
) -> Iterator[ObjectInfo]:
    try:
        yield from store.list_dir(folder)
    except NotFound as error:
        if root and folder and not isinstance(error, BucketNotFound):
            return  # a prefix with nothing under it, in a bucket that is there, yields nothing
        if on_error is None:
            raise
        on_error(error)
    except StorageError as error:
        if on_error is None:
            raise
        on_error(error)


def _walk_flat(
    store: ExtendedBackend,
    prefix: str,
    descend: Callable[[str], bool] | None,
    folders: bool,
    options: ListOptions,
) -> Iterator[ObjectInfo]:
    verdict: dict[str, bool] = {}
    last, hidden = "", False
    for info in store.list(prefix, options):
        here = parent(info.path)
        if here != last:
            last, hidden = here, not is_walkable(here, options.on_error)
            between = [] if hidden else _folders_between(prefix, info.path)
            if store.features.sorted_list:  # what lies behind does not come again
                verdict = {folder: verdict[folder] for folder in between if folder in verdict}
            for folder in between:
                if folder not in verdict:
                    if folders:
                        yield ObjectInfo(folder, kind="dir")
                    verdict[folder] = descend is None or descend(folder)
                if not verdict[folder]:
                    hidden = True
                    break
        if not hidden:
            yield info


def _folders_between(prefix: str, path: str) -> list[str]:
    found: list[str] = []
    folder = parent(path)
    while folder and folder != prefix and is_under(folder, prefix):
        found.append(folder)
        folder = parent(folder)
    return found[::-1]


def children(backend: Backend, folder: str = "") -> Iterator[ObjectInfo]:
    """What lies right in ``folder``, folders too: the backend's own ``list_dir``, or for a basic one what its flat
    listing shows. Raises ``NotFound`` where there is no such folder."""
    store = extended(backend)
    if not isinstance(store, BasicView):
        yield from store.list_dir(folder)
        return
    seen = set[str]()
    for info in store.list(folder):
        rest = info.path[len(folder) + 1 if folder else 0 :]
        head, deeper, _ = rest.partition("/")
        if not deeper:
            seen.add("")
            yield info
        elif head not in seen:
            seen.add(head)
            yield ObjectInfo(f"{folder}/{head}" if folder else head, kind="dir")
    if folder and not seen:
        raise NotFound("no such folder", path=folder, backend=store.name, op="list_dir")


def glob(
    backend: Backend, pattern: str, *, on_error: Callable[[StorageError], None] | None = None
) -> Iterator[ObjectInfo]:
    """Every object whose whole key matches ``pattern`` (see ``globs``; it binds to the root), in the listing's order.

    The store does the matching if it can; else as little is listed as the pattern allows. Raises ``ConfigError`` for a
    pattern that is none.
    """
    store = extended(backend)
    matching = compile_glob(pattern, anchored=True)
    power_of_store = power(store, Glob)
    if power_of_store is not None:
        return power_of_store.glob(pattern)
    return _glob(store, pattern.removeprefix("/"), matching, on_error)


def _glob(
    store: ExtendedBackend,
    pattern: str,
    matching: CompiledGlob,
    on_error: Callable[[StorageError], None] | None,
) -> Iterator[ObjectInfo]:
    deepest = pattern.count("/")
    # Where no part of the pattern reaches over a "/", folders deeper than it cannot hold a match.
    flat = "**" not in pattern and "{" not in pattern and store.features.dirs
    descend = (lambda folder: folder.count("/") < deepest) if flat else None
    for info in walk(store, literal_folder(pattern), descend=descend, on_error=on_error):
        if matching.fullmatch(info.path):
            yield info
