"""Find out what a server really keeps, by trying it: for backends whose servers differ.

``Features`` do no I/O, so a custom endpoint claims little until its configuration says more. ``probe`` does the I/O,
and returns the options to write down. (Not ``probe.py``, whose module would stand where ``omnistorage.probe`` does.)
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from omnistorage.core import CopyOptions, ExtendedBackend, ListOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.paths import sort_key

from . import operations

RACERS = 16
ROUNDS = 3


class Probed(ExtendedBackend, Protocol):
    """What a backend says of options that depend on its server: each with the trials (names in ``TRIALS``) that must
    all go well with the option on."""

    probes: Mapping[str, tuple[str, ...]]
    probe_with: Mapping[str, Any]  # options of the trials, like parts as short as the server takes them

    def with_options(self, **options: Any) -> ExtendedBackend: ...  # the same place, configured otherwise


@dataclass(frozen=True)
class Finding:
    """One trial of one option; ``note`` says what was seen if it did not go well."""

    option: str
    trial: str
    kept: bool
    note: str = ""


@dataclass(frozen=True)
class Probe:
    """``options`` are those to write down in the configuration, with what was found for each."""

    options: Mapping[str, bool]
    findings: tuple[Finding, ...]


class _Differs(Exception):
    """The server does something else than was asked."""


def probe(backend: ExtendedBackend) -> Probe:
    """Try what the server of ``backend`` keeps: exactly one winner among writers of one new key, conditions by etag,
    listings in the order of keys, and whatever else its options claim. Writes small objects into a folder of its own,
    ``omnistorage-probe-...``, and removes them. A backend whose server leaves nothing open needs no I/O and has no
    options to set. A race that a server loses now and then may go well here: true means "seen to hold", false means
    "seen to fail".

    Raises ``CapabilityNotSupported`` for what cannot be written to, ``PermissionDenied``, ``NotFound`` (of the bucket)
    and ``BackendUnavailable`` where a trial could not be made.
    """
    wanted: Mapping[str, tuple[str, ...]] = getattr(backend, "probes", {})
    if not wanted:
        return Probe({}, ())
    if not (backend.features.write and backend.features.delete):
        raise CapabilityNotSupported("probing writes small objects and removes them", capability="write", op="probe")
    findings: list[Finding] = []
    kept: dict[str, bool] = {}
    for option, trials in wanted.items():
        opened = cast(Probed, backend).with_options(**kept, **{option: True}, **getattr(backend, "probe_with", {}))
        try:
            found = [_tried(opened, option, trial) for trial in trials]
        finally:
            opened.close()
        kept[option] = all(one.kept for one in found)
        findings += found
    return Probe(kept, tuple(findings))


def _tried(backend: ExtendedBackend, option: str, trial: str) -> Finding:
    folder = f"omnistorage-probe-{uuid.uuid4().hex[:12]}"
    try:
        TRIALS[trial](backend, folder)
    except _Differs as error:
        return Finding(option, trial, False, str(error))
    except (PermissionDenied, BackendUnavailable, OutcomeUnknown, NotFound):
        raise
    except StorageError as error:
        return Finding(option, trial, False, str(error.args[0]) if error.args else type(error).__name__)
    finally:
        _cleared(backend, folder)
    return Finding(option, trial, True)


def _cleared(backend: ExtendedBackend, folder: str) -> None:
    for info in list(backend.list(folder)):
        backend.delete(info.path)
    if backend.features.dirs:
        for info in sorted(operations.walk(backend, folder), key=lambda info: -len(info.path)):
            backend.rmdir(info.path)
        backend.rmdir(folder)


# -- trials ------------------------------------------------------------------------------------------------------------


def _body(backend: ExtendedBackend, text: bytes, long: bool) -> bytes:
    """``text``; with ``long`` more than one part of an upload, of which it is the last."""
    return b"." * getattr(backend, "part_size", 0) + text if long else text


def _write(backend: ExtendedBackend, path: str, data: bytes, options: WriteOptions, *, long: bool = False) -> None:
    with backend.open_writer(path, options) as writer:
        writer.write(_body(backend, data, long))


def _raced(backend: ExtendedBackend, path: str, options: WriteOptions, loss: type[Exception], long: bool) -> None:
    """Writers of one key, all at once: one of them wins, and what is there is what it wrote. Those of ``long`` bodies
    bring their parts one after the other, and only publish at once: that is when conditions are looked at."""
    won: list[int] = []
    broken: list[BaseException] = []
    start = threading.Barrier(RACERS)
    one_by_one = threading.Lock()

    def run(number: int) -> None:
        try:
            with backend.open_writer(path, options) as writer:
                try:
                    with one_by_one:
                        writer.write(_body(backend, b"%d" % number, long))
                        if long:
                            writer.prepare()
                except BaseException:
                    start.abort()
                    raise
                start.wait(600)
            won.append(number)
        except loss:
            pass
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise next((error for error in broken if not isinstance(error, threading.BrokenBarrierError)), broken[0])
    if len(won) != 1:
        raise _Differs(f"of {RACERS} writers at once, {len(won)} won")
    if operations.read_bytes(backend, path) != _body(backend, b"%d" % won[0], long):
        raise _Differs("what one writer was told it wrote is not what is there")


def _create(backend: ExtendedBackend, folder: str, long: bool = False) -> None:
    only = WriteOptions(overwrite=False)
    for number in range(1 if long else ROUNDS):
        _raced(backend, f"{folder}/{number}", only, AlreadyExists, long)
    try:
        _write(backend, f"{folder}/0", b"second", only, long=long)
    except AlreadyExists:
        return
    raise _Differs("an object that was there was replaced")


def _create_upload(backend: ExtendedBackend, folder: str) -> None:
    _create(backend, folder, long=True)


def _replace(backend: ExtendedBackend, folder: str, long: bool = False) -> None:
    path = f"{folder}/x"
    _write(backend, path, b"old", WriteOptions())
    etag = backend.stat(path).etag
    _write(backend, path, b"new", WriteOptions(if_match=etag), long=long)
    try:
        _write(backend, path, b"late", WriteOptions(if_match=etag), long=long)
    except PreconditionFailed:
        pass
    else:
        raise _Differs("an object was replaced although its etag was another")
    _raced(backend, path, WriteOptions(if_match=backend.stat(path).etag), PreconditionFailed, long)


def _replace_upload(backend: ExtendedBackend, folder: str) -> None:
    _replace(backend, folder, long=True)


def _copy_if(backend: ExtendedBackend, folder: str) -> None:
    """Conditions on the target of a copy, which is an upload where the server keeps none of copies."""
    _write(backend, f"{folder}/x", b"data", WriteOptions())
    _write(backend, f"{folder}/y", b"other", WriteOptions())
    other = backend.stat(f"{folder}/y").etag
    for options in (CopyOptions(if_match=other), CopyOptions(overwrite=False)):
        try:
            backend.copy(f"{folder}/y", f"{folder}/x", options)
        except (PreconditionFailed, AlreadyExists):
            continue
        raise _Differs("an object was copied over although its etag was another")


def _delete_if(backend: ExtendedBackend, folder: str) -> None:
    path = f"{folder}/x"
    _write(backend, path, b"data", WriteOptions())
    _write(backend, f"{folder}/y", b"other", WriteOptions())
    other = backend.stat(f"{folder}/y").etag
    for what, call in (
        ("deleted", lambda: backend.delete(path, if_match=other)),
        ("copied over", lambda: backend.copy(f"{folder}/y", path, CopyOptions(if_match=other))),
        ("copied", lambda: backend.copy(path, f"{folder}/z", CopyOptions(source_if_match=other))),
        ("copied over", lambda: backend.copy(f"{folder}/y", path, CopyOptions(overwrite=False))),
    ):
        try:
            call()
        except (PreconditionFailed, AlreadyExists):
            continue
        raise _Differs(f"an object was {what} although its etag was another")


def _order(backend: ExtendedBackend, folder: str) -> None:
    names = ("a/b", "a!x", "a-b", "a.b", "a0", "a/c/d", "Z", "é", "z")
    keys = [f"{folder}/{name}" for name in names]
    for key in keys:
        _write(backend, key, b"x", WriteOptions())
    keys.sort(key=sort_key)
    found = [info.path for info in backend.list(folder)]
    if found != keys:
        raise _Differs("keys are listed in another order than that of their bytes")
    after = keys[len(keys) // 2]
    found = [info.path for info in backend.list(folder, ListOptions(start_after=after))]
    if found != keys[len(keys) // 2 + 1 :]:
        raise _Differs("a listing that starts after a key brings other keys than those behind it")


def _overwrite(backend: ExtendedBackend, folder: str) -> None:
    for data in (b"old", b"new"):
        _write(backend, f"{folder}/x", data, WriteOptions())
    if operations.read_bytes(backend, f"{folder}/x") != b"new":
        raise _Differs("a new object did not replace the old one")


def _copy(backend: ExtendedBackend, folder: str) -> None:
    _write(backend, f"{folder}/x", b"data", WriteOptions())
    backend.copy(f"{folder}/x", f"{folder}/y", CopyOptions())
    if operations.read_bytes(backend, f"{folder}/y") != b"data":
        raise _Differs("a copy is not what was copied")


TRIALS: Mapping[str, Callable[[ExtendedBackend, str], None]] = {
    "one winner of new keys": _create,
    "one winner of new keys in uploads": _create_upload,
    "conditions by etag": _replace,
    "conditions by etag in uploads": _replace_upload,
    "conditions of copies in uploads": _copy_if,
    "conditions of deletes and copies": _delete_if,
    "order of listings": _order,
    "replacing": _overwrite,
    "copying": _copy,
}
