"""Which conditions a server keeps, found out by trying: for object stores that nothing is known of.

A probe sends about 30 small requests for one object, which is removed again. A bucket with versioning keeps the removed
versions and a marker, until its lifecycle rules end them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from omnistorage.concurrency.in_flight import taking_back
from omnistorage.errors import BackendUnavailable, BucketNotFound, NotFound, PreconditionFailed, StorageError

from .client import ObjectClient, Put, Upload

CREATES, UPLOADS = 8, 4
"""How many creates of one key are sent at the same time, and how many uploads are ended."""
FOUND: dict[str, Kept] = {}
"""What was found out in this process, by server and bucket."""
_CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")
_CREATE = Put("application/octet-stream", create=True)


class Kept(NamedTuple):
    """Which conditions a server keeps: a new key has one winner, a replacement is held to the etag, and both hold at
    the end of an upload of parts, too. ``why`` says why not more."""

    create_only: bool = False
    if_match: bool = False
    uploads: bool = False
    why: str = ""


def tried(client: ObjectClient, key: str) -> Kept:
    """Try which conditions the server of ``client`` keeps, on ``key``: nobody else may use it, and it is removed."""
    try:
        return _tried(client, key)
    finally:
        with suppress(Exception):
            taking_back(lambda: remove(client, key))


def _tried(client: ObjectClient, key: str) -> Kept:
    begun: list[Upload] = []
    try:
        for _ in range(UPLOADS):  # before there is an object: some look at the condition here only
            begun.append(client.start_upload(key, _CREATE))
        tags = [client.put_part(upload, 1, b"uploaded") for upload in begun]
        won = _race(client, [partial(client.put, key, b"%d" % number, _CREATE) for number in range(CREATES)])
        if len(won) != 1:
            return Kept(why=f"of {CREATES} creates of one key at the same time, {len(won)} won")
        replaced = _replaces(client, key, won[0].etag)
        ends = [partial(client.finish_upload, upload, {1: tag}) for upload, tag in zip(begun, tags, strict=True)]
        uploads = _refuses(client, ends[0])
        if uploads:
            remove(client, key)
            uploads = len(_race(client, ends)) == 1
        return Kept(True, not replaced, uploads, replaced)
    finally:
        for upload in begun:
            with suppress(Exception):  # most have ended
                taking_back(partial(client.abort_upload, upload))


def _replaces(client: ObjectClient, key: str, etag: str | None) -> str:
    """How a replacement is not held to the etag; empty if it is."""
    put = Put(_CREATE.content_type, if_match=etag)
    if etag is None or _refuses(client, lambda: client.put(key, b"replaced", put)):
        return "a replacement by the etag of the object was refused"
    if not _refuses(client, lambda: client.put(key, b"replaced late", put)):
        return "an object was replaced although its etag was another"
    return ""


def _race(client: ObjectClient, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What those of ``calls`` return that are not refused, all made at the same time."""
    won: list[Any] = []
    broken: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> None:
        try:
            start.wait()
            _refuses(client, lambda: won.append(call()))
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    try:
        for thread in threads:
            thread.start()
    except BaseException:  # there are no more threads: those that wait for them would wait for ever
        start.abort()
        raise
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    return won


def remove(client: ObjectClient, key: str) -> None:
    """Delete ``key`` if it is there."""
    try:
        client.delete(key, None)
    except Exception as error:
        ours = _ours(client, error)
        if not isinstance(ours, NotFound) or isinstance(ours, BucketNotFound):
            raise


def _refuses(client: ObjectClient, call: Callable[[], Any]) -> bool:
    """Whether the server refuses a conditional write; another one of the same key may be the reason."""
    try:
        call()
    except Exception as error:
        ours = _ours(client, error)
        busy = isinstance(ours, BackendUnavailable) and str(ours.args[0]).startswith(_CONFLICTS)
        gone = isinstance(ours, NotFound) and not isinstance(ours, BucketNotFound)  # an upload that was refused before
        if isinstance(ours, PreconditionFailed) or busy or gone:
            return True
        raise
    return False


def _ours(client: ObjectClient, error: Exception) -> StorageError | None:
    return error if isinstance(error, StorageError) else client.translate(error)
