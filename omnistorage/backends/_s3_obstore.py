"""A second client of S3: reads and small writes through obstore, for about a fifth of the SDK's CPU time.

Everything else stays with the SDK: listings, copies, uploads of parts (a dropped upload of obstore's own would stay at
the store), and what obstore cannot say: versions, further headers, keys that are no path to it. ADR 0010 has the
reasons. Imports floor 0 and shared bases; obstore when a client is made.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from ..core import ObjectInfo
from ..errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    MissingExtra,
    PermissionDenied,
    StorageError,
)
from ..strands import IO
from ._object_client import Body, Get, Put
from ._s3_client import NAME, WRITE_ID, S3Client, _bare, _of_code, _quoted

SMALL = 256 * 1024
"""Bodies up to this come with the call that asks for them."""
CHUNK = 1 << 20
LONG = 1 << 20
"""Bodies over this are the SDK's to send: obstore counts its read timeout from the beginning of the request."""
LEASE = timedelta(minutes=15)
"""How long obstore keeps credentials before it asks the SDK's chain again."""
_HEADERS = (
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Storage-Class",
)
_ALIASES = frozenset(name.lower().replace("-", "") for name in _HEADERS)
"""User metadata of these names would become headers."""
_SILENT = frozenset(
    ("AWS_CHECKSUM_ALGORITHM", "AWS_SERVER_SIDE_ENCRYPTION", "AWS_SSE_BUCKET_KEY_ENABLED", "AWS_SSE_KMS_KEY_ID",
     "AWS_SSE_CUSTOMER_KEY_BASE64")
)  # fmt: skip
"""What obstore takes from the environment, the SDK does not, and no option takes back."""
_first: list[int] = []
"""The process whose threads obstore runs on; it has one runtime, which a forked child cannot use."""


def _after_fork() -> None:
    if "obstore" in sys.modules and not _first:  # somebody else may have used it
        _first.append(0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def use_obstore(client: str, suits: bool, session: Any, endpoint: str) -> bool:
    """Whether obstore takes the data path for ``client`` ("auto", "sdk", "obstore"): where it is installed, ``suits``,
    and does what the SDK's ``session`` was told. In a forked child it cannot."""
    if client == "sdk":
        return False
    private_ca = endpoint.startswith("https:") and session.get_config_variable("ca_bundle")
    if client == "obstore":
        if find_spec("obstore") is None:
            raise MissingExtra(
                'client="obstore" needs obstore: pip install "omnistorage[accel]"', extra="accel", backend=NAME
            )
        if private_ca:
            raise ConfigError("obstore does not know the certificates of ca_bundle: use client='sdk'", backend=NAME)
    elif not suits or private_ca or _SILENT & os.environ.keys() or find_spec("obstore") is None:
        return False
    return not _first or _first[0] == os.getpid()


class ObstoreS3Client(S3Client):
    """``ObjectClient`` over obstore and the SDK."""

    def __init__(self, sdk: Any, bucket: str, skip: int, *, md5_etags: bool, options: Mapping[str, Any]) -> None:
        super().__init__(sdk, bucket, skip, checksums=False, md5_etags=md5_etags)
        import obstore
        from obstore.store import S3Store

        _first[:] = _first or [os.getpid()]
        self._obstore: Any = obstore
        self._store: Any = S3Store(bucket, **options)

    def translate(self, error: BaseException) -> StorageError | None:
        if type(error).__module__.startswith("obstore") or _STATUS.search(str(error)):
            return _translated(str(error))
        return super().translate(error)

    def get(self, key: str, get: Get) -> Body:
        if get.version is not None or (get.end or 0) >= 1 << 63 or not _fits(key):
            return super().get(key, get)
        options: dict[str, Any] = {}
        if get.range is not None:
            options["range"] = {"offset": get.start} if get.end is None else (get.start, get.end)
        if get.if_match is not None:
            options["if_match"] = _quoted(get.if_match)
        if get.if_none_match is not None:
            options["if_none_match"] = _quoted(get.if_none_match)
        try:
            result = self._obstore.get(self._store, key, options=options)
        except self._obstore.exceptions.GenericError as error:
            if "non UTF-8" in str(error):  # in a header of the object: the SDK can read it
                return super().get(key, get)
            raise
        meta, told = result.meta, result.attributes
        metadata = {name.lower(): value for name, value in told.items() if name not in _HEADERS}
        metadata.pop(WRITE_ID, None)
        moment = meta["last_modified"].astimezone(UTC)
        info = ObjectInfo(
            key[self.skip :], meta["size"], moment if moment.timestamp() else None, "file", _bare(meta["e_tag"]),
            meta["version"], told.get("Content-Type"), None, metadata,
        )  # fmt: skip
        start, end = result.range
        return _Whole(info, result.bytes()) if end - start <= SMALL else _Streamed(info, end - start, result)

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        odd = any(name.replace("_", "") in _ALIASES for name in put.metadata)
        if put.extra or odd or len(data) > LONG or not _fits(key):
            return super().put(key, data, put)
        attributes = {"Content-Type": put.content_type, **put.metadata}
        if put.write_id is not None:
            attributes[WRITE_ID] = put.write_id
        mode: Any = "overwrite"
        if put.conditional:
            mode = "create" if put.create else {"e_tag": _quoted(put.if_match or "")}
        told = self._obstore.put(self._store, key, data, attributes=attributes, mode=mode, use_multipart=False)
        return ObjectInfo(key[self.skip :], len(data), None, "file", _bare(told["e_tag"]), told["version"])


def store_options(endpoint: str, region: str, credentials: Any, timeouts: tuple[float, float]) -> dict[str, Any]:
    """How obstore's store is made: the SDK's endpoint, one try for each request, our timeouts, and the SDK's
    ``credentials`` (None: not signed). What obstore would take from the environment is said here."""
    connect, read = timeouts
    options: dict[str, Any] = {
        "endpoint": endpoint,
        "aws_endpoint_url_s3": endpoint,
        "region": region,
        "virtual_hosted_style_request": False,
        "unsigned_payload": False,
        "s3_express": False,
        "request_payer": False,
        "conditional_put": "etag",
        "skip_signature": credentials is None,
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)},
        "client_options": {
            "connect_timeout": timedelta(seconds=connect),
            "read_timeout": timedelta(seconds=read),
            "timeout": timedelta(days=365),  # of a whole body, which may be long
            "allow_http": endpoint.startswith("http:"),
        },
    }
    if credentials is not None:
        options["credential_provider"] = _Lent(credentials)
    return options


class _Lent:
    """The SDK's credentials, as obstore asks for them."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + LEASE,
        }


class _Whole:
    """A body that is here."""

    digest: tuple[str, str] | None = None

    def __init__(self, info: ObjectInfo, data: Any) -> None:
        self.info = info
        self._data = memoryview(data)
        self.length: int | None = len(self._data)

    def read(self, size: int, /) -> bytes:
        piece = bytes(self._data[:size])
        self._data = self._data[size:]
        return piece

    def close(self) -> None:
        self._data = memoryview(b"")

    def interrupt(self) -> None:
        pass


class _Streamed:
    """A body on its way. Its next piece is waited for on a thread of the pool, as nothing else could end the waiting:
    ``spawn`` runs it at once or not at all, so no thread of the pool waits for one that waits."""

    digest: tuple[str, str] | None = None

    def __init__(self, info: ObjectInfo, length: int, result: Any) -> None:
        self.info = info
        self.length: int | None = length
        self._stream = iter(result.stream(min_chunk_size=CHUNK))
        self._piece = memoryview(b"")
        self._changed = threading.Condition()
        self._stopped = False

    def read(self, size: int, /) -> bytes:
        if not len(self._piece):
            self._piece = memoryview(self._next())
        piece = bytes(self._piece[:size])
        self._piece = self._piece[size:]
        return piece

    def _next(self) -> Any:
        stream, changed, found = self._stream, self._changed, list[Any]()

        def fetch() -> None:
            try:
                found.append(next(stream, b""))
            except BaseException as error:
                found.append(error)
            with changed:
                changed.notify_all()

        if not IO.spawn(fetch):
            fetch()
        with changed:
            while not found and not self._stopped:
                changed.wait()
        if not found:
            raise ConnectionAbortedError("the reader was closed")
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def close(self) -> None:
        self.interrupt()
        self._stream = iter(())
        self._piece = memoryview(b"")

    def interrupt(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _fits(key: str) -> bool:
    """Whether obstore would send exactly this key."""
    return key.isprintable() and not any(segment in ("", ".", "..") for segment in key.split("/"))


_STATUS = re.compile(r"Error performing [A-Z]+ \S+ in \S+ - Server returned non-2xx status code: (\d+)")


def _translated(text: str) -> StorageError:
    """Ours for an error of obstore, which says the answer's status and body in its text."""
    told = text.partition("\n\nDebug source:")[0].strip()
    if found := _STATUS.search(told):
        code, message = (re.search(f"<{tag}>([^<]*)</{tag}>", told) for tag in ("Code", "Message"))
        return _of_code(code[1] if code else found[1], message[1] if message else "", int(found[1]))
    if "non-partial response" in told or "Requested " in told:
        return CapabilityNotSupported(
            "the server gives another range than it was asked for", capability="range_read", backend=NAME
        )
    if "lacked valid authentication" in told:
        return PermissionDenied(f"no usable credentials: {told[:300]}", backend=NAME)
    sent = re.search(r"kind: Connect\b", text) is None
    return BackendUnavailable(told[:300], retry_after=None if sent else 0.0, backend=NAME)
