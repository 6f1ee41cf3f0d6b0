"""Azure's Blob service as an ``ObjectClient``: one request per call, the SDK's own retries off.

Long bodies are blocks (Put Block) that a block list (Put Block List) turns into a blob. All writers of a blob share one
list of uncommitted blocks: so each upload has ids of its own, which nobody else can name, and of one length, as the
service wants.
"""

from __future__ import annotations

import hashlib
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree
from xml.parsers import expat

from omnistorage.backends.object_store.client import Body, Get, Page, Put, Upload
from omnistorage.backends.object_store.response_marks import span, understood, unmarked
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    NotFound,
    StorageError,
)

from .account import NAME, Clients, check_text
from .transport import SHOWN, Refused, Wire, quiet, translate

WRITE_ID = "omnistorage_write_id"
"""Key of metadata; a user's own key may not be this one."""
FOLDER = "hdi_isfolder"
"""Key of metadata that a hierarchical account shows on its folders."""
MD5 = "md5"
"""Key of ``Put.extra``: the digest of the whole of an upload, known when its last block is there."""

LONGEST_TIME = 64
"""No date has more characters; what is longer is not kept in memory."""
NO_ETAG = '"0x0"'
"""An etag that no blob has."""
EXTRA = {
    "azure.access_tier": "x-ms-access-tier",
    "azure.cache_control": "x-ms-blob-cache-control",
    "azure.content_disposition": "x-ms-blob-content-disposition",
    "azure.content_encoding": "x-ms-blob-content-encoding",
    "azure.content_language": "x-ms-blob-content-language",
    "azure.encryption_scope": "x-ms-encryption-scope",
    "azure.tags": "x-ms-tags",
}
"""``WriteOptions.extra`` -> the header of Put Blob and Put Block List."""


class AzureClient:
    """``ObjectClient`` over the SDK's clients of one container."""

    def __init__(self, clients: Clients, skip: int, *, checksums: bool, hierarchical: bool) -> None:
        self.clients = clients
        self.skip = skip
        self.wire = Wire(clients.container)
        self._checksums = checksums
        self._hierarchical = hierarchical

    def close(self) -> None:
        self.clients.close()

    def cutter(self) -> Callable[[], None]:
        return self.clients.connections.cutter()

    def translate(self, error: BaseException) -> StorageError | None:
        return translate(error)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str, get: Get) -> Body:
        headers = {} if get.range is None else {"x-ms-range": get.range}  # Range itself is not signed
        if get.if_match is not None:
            headers["If-Match"] = quoted(get.if_match)
        if get.if_none_match is not None:
            headers["If-None-Match"] = quoted(get.if_none_match)
        try:
            answer = self.wire.send("GET", key, "", headers, stream=True)
        except Refused as error:
            if error.status != 416 or get.start:
                raise
            headers.pop("x-ms-range")  # a blob without a byte has no range that begins at 0
            answer = self.wire.send("GET", key, "", headers, stream=True)
        try:
            headers = answer.headers
            length, whole = span(
                get, answer.status_code, _number(headers.get("Content-Length", "")), headers.get("Content-Range"),
                framed="chunked" in headers.get("Transfer-Encoding", "").lower(), backend=NAME,
            )  # fmt: skip
            info = self._info(key, headers)._replace(size=whole)
        except BaseException:
            answer.close()
            raise
        most = length if length is not None or get.end is None else get.end - get.start
        md5 = info.hash("md5") if self._checksums else None
        return _Body(info, answer, length, most, None if md5 is None else ("md5", md5))

    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        return self._info(key, self.wire.send("HEAD", key).headers)

    def written_by(self, key: str) -> tuple[str | None, ObjectInfo]:
        headers = self.wire.send("HEAD", key).headers
        return headers.get(f"x-ms-meta-{WRITE_ID}"), self._info(key, headers)

    def is_folder(self, key: str) -> bool | None:
        """Whether a folder has this name, or an object (False), or nothing (None)."""
        try:
            headers = self.wire.send("HEAD", key).headers
        except Refused as error:
            if not _is_gone(error):
                raise
            return None
        return _is_folder(headers)

    def _info(self, key: str, headers: Mapping[str, str]) -> ObjectInfo:
        if self._hierarchical and _is_folder(headers):
            raise NotFound("a folder has this name", backend=NAME)
        if not headers.get("ETag"):
            raise unmarked("an object without an ETag", NAME)
        whole = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        metadata = {name.lower()[10:]: value for name, value in headers.items() if name[:10].lower() == "x-ms-meta-"}
        metadata.pop(WRITE_ID, None)
        digest = headers.get("x-ms-blob-content-md5") if "Content-Range" in headers else headers.get("Content-MD5")
        hashes = _md5(digest, headers.get("x-ms-blob-type"))
        return ObjectInfo(
            key[self.skip :], _number(whole), _time(headers.get("Last-Modified")), "file", _bare(headers.get("ETag")),
            None, headers.get("Content-Type"), hashes, metadata,
        )  # fmt: skip

    def page(self, prefix: str, *, folders: bool, after: str | None, token: Any, limit: int | None) -> Page:
        wanted = {"restype": "container", "comp": "list"}
        if prefix:
            wanted["prefix"] = check_text(prefix)
        if folders:
            wanted["delimiter"] = "/"
        if token is not None:
            wanted["marker"] = token
        if limit is not None:
            wanted["maxresults"] = str(limit)
        if self._hierarchical:
            wanted["include"] = "metadata"  # which tells folders from objects
        page = self.wire.document(urlencode(wanted, quote_via=quote))
        root = _parsed(page)
        blobs, marker = root.find("Blobs"), root.find("NextMarker")
        if blobs is None or marker is None:
            raise BackendUnavailable("the store ended its listing with an answer that says nothing", backend=NAME)
        found, below = list[ObjectInfo](), dict[str, None]()
        for one in blobs:
            if one.tag == "BlobPrefix":
                below[_name(one)] = None
            elif (info := self._listed(one)) is not None:
                found.append(info)
            elif folders:
                below[_name(one).rstrip("/") + "/"] = None
        return Page(found, list(below), marker.text or None)

    def _listed(self, one: ElementTree.Element) -> ObjectInfo | None:
        """An object of a listing; None for a folder."""
        said = _fields(one, "Properties")
        if self._hierarchical:
            marks = _fields(one, "Metadata")
            if said.get("ResourceType") == "directory" or marks.get(FOLDER) == "true":
                return None
        size = _number(said.get("Content-Length") or "0")
        if size is None:
            raise BackendUnavailable("the store lists an object whose length is no number", backend=NAME)
        return ObjectInfo(
            _name(one)[self.skip :], size, _time(said.get("Last-Modified")), "file", _bare(said.get("Etag")), None,
            said.get("Content-Type"), _md5(said.get("Content-MD5"), said.get("BlobType")),
        )  # fmt: skip

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        headers = {"x-ms-blob-type": "BlockBlob", **_described(put), **self._digest(data)}
        try:
            answer = self.wire.send("PUT", key, "", headers, data)
        except Refused as error:
            return self._beside_blocks(key, data, put, error)
        return self._published(key, answer.headers, len(data))

    def _beside_blocks(self, key: str, data: bytes, put: Put, refused: Refused) -> ObjectInfo:
        """Put once more where there is no blob, but blocks that nobody committed: Azurite takes them for one, but for
        block lists."""
        if refused.code != "BlobAlreadyExists" or self.is_folder(key) is not None:
            raise refused
        upload = self.start_upload(key, put)
        return self.finish_upload(upload, {1: self.put_part(upload, 1, data)})

    def _digest(self, data: bytes) -> dict[str, str]:
        if not self._checksums:
            return {}
        return {"Content-MD5": b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}

    def _published(self, key: str, headers: Mapping[str, str], size: int | None) -> ObjectInfo:
        if not headers.get("ETag"):
            raise unmarked("the answer to the write has no ETag", NAME)
        return ObjectInfo(
            key[self.skip :], size, _time(headers.get("Last-Modified")), "file", _bare(headers.get("ETag")), None, None,
            _md5(headers.get("Content-MD5")),
        )  # fmt: skip

    def delete(self, key: str, if_match: str | None, unmodified_since: datetime | None = None) -> bool:
        headers = {"x-ms-delete-snapshots": "include"}
        if if_match is not None:
            headers["If-Match"] = quoted(if_match)
        if unmodified_since is not None:
            headers["If-Unmodified-Since"] = format_datetime(unmodified_since, usegmt=True)
        try:
            self.wire.send("DELETE", key, "", headers)
        except Refused as error:
            if not _is_gone(error):
                raise
            return False
        return True

    def delete_many(self, keys: Sequence[str]) -> list[StorageError | None]:
        with quiet(), understood("the answer to a batch", NAME):
            answers = list(
                self.clients.container.delete_blobs(*keys, delete_snapshots="include", raise_on_any_failure=False)
            )
        if len(answers) != len(keys):
            if len(answers) == 1 and answers[0].status_code >= 300:
                raise _failure(answers[0])  # of the batch as a whole
            raise BackendUnavailable(f"{len(answers)} answers came for {len(keys)} objects to delete", backend=NAME)
        return [
            None if each.status_code == 202 or _is_gone(failed := _failure(each)) else translate(failed)
            for each in answers
        ]

    def begin_copy(
        self, source: tuple[str, str], key: str, put: Put | None, source_if_match: str | None
    ) -> tuple[ObjectInfo, str | None]:
        """Copy Blob from ``source`` (a URL, and the SAS that opens it); the copy's id if it is not done yet."""
        headers = {"x-ms-copy-source": "?".join(filter(None, source))}
        if put is not None:
            headers |= {**_metadata(put), **_condition(put)}
        if source_if_match is not None:
            headers["x-ms-source-if-match"] = quoted(source_if_match)
        answer = self.wire.send("PUT", key, "", headers, statuses=(202,)).headers
        if "x-ms-copy-status" not in answer:
            raise unmarked("the answer to the copy has no x-ms-copy-status", NAME)
        done = answer["x-ms-copy-status"] == "success"
        return self._published(key, answer, None), None if done else answer.get("x-ms-copy-id", "")

    def copy_state(self, key: str) -> tuple[str | None, str, ObjectInfo]:
        """The last copy onto ``key``: its id, and how it stands."""
        headers = self.wire.send("HEAD", key).headers
        status = f"{headers.get('x-ms-copy-status', '')} {headers.get('x-ms-copy-status-description', '')}"
        return headers.get("x-ms-copy-id"), status.strip(), self._info(key, headers)

    def abort_copy(self, key: str, copy_id: str) -> None:
        self.wire.send("PUT", key, f"comp=copy&copyid={quote(copy_id)}", {"x-ms-copy-action": "abort"}, statuses=(204,))

    # -- blocks --------------------------------------------------------------------------------------------------------

    def start_upload(self, key: str, put: Put) -> Upload:
        """No request: blocks need no beginning."""
        return Upload(key, uuid.uuid4().hex, put)

    def put_part(self, upload: Upload, number: int, data: bytes) -> str:
        if not data:
            return ""  # a block has bytes
        name = b64encode(f"{upload.id}{number:016d}".encode()).decode()  # 48 bytes, always
        scope = upload.put.extra.get("azure.encryption_scope")
        headers = self._digest(data) | ({"x-ms-encryption-scope": str(scope)} if scope else {})
        self.wire.send("PUT", upload.key, f"comp=block&blockid={quote(name, safe='')}", headers, data)
        return name

    def copy_part(
        self, upload: Upload, number: int, source: tuple[str, str], start: int, end: int, if_match: str | None
    ) -> str:
        raise CapabilityNotSupported("Azure copies blobs of any length whole", capability="copy_part", backend=NAME)

    def finish_upload(self, upload: Upload, tags: Mapping[int, str]) -> ObjectInfo:
        names = "".join(f"<Latest>{tags[number]}</Latest>" for number in sorted(tags) if tags[number])
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode()
        headers = {"Content-Type": "application/xml", **_described(upload.put), **self._digest(body)}
        md5 = upload.put.extra.get(MD5)
        if md5 is not None:
            headers["x-ms-blob-content-md5"] = b64encode(bytes.fromhex(md5)).decode()
        info = self._published(
            upload.key, self.wire.send("PUT", upload.key, "comp=blocklist", headers, body).headers, None
        )
        return info._replace(hashes=None if md5 is None else {"md5": md5})  # the answer's digest is the list's

    def abort_upload(self, upload: Upload) -> None:
        """There is no such request: blocks that nobody commits are seen by nobody, and forgotten within a week."""

    def etag_of(self, tags: Mapping[int, str]) -> str | None:
        return None

    def is_hierarchical(self) -> bool:
        headers = self.wire.send("GET", None, "restype=account&comp=properties").headers
        return str(headers.get("x-ms-is-hns-enabled", "")).lower() == "true"


def _parsed(page: bytes) -> ElementTree.Element:
    """The root element of ``page``, which may have no document type: entities take a hundred times their text."""

    def refuse(*_: Any) -> None:
        raise CorruptData("the listing has a document type, which may hold entities: refused", backend=NAME)

    def stop(*_: Any) -> None:
        raise StopIteration

    prolog = expat.ParserCreate()
    prolog.StartDoctypeDeclHandler, prolog.StartElementHandler = refuse, stop
    try:
        for at in range(0, len(page), SHOWN):  # after an error the parser goes on to the end of what it was given
            prolog.Parse(page[at : at + SHOWN])
    except StopIteration:
        pass
    except expat.ExpatError as error:
        raise BackendUnavailable(f"the listing cannot be understood: {error}", backend=NAME) from error
    try:
        return ElementTree.fromstring(page)  # noqa: S314  (it has no document type)
    except ElementTree.ParseError as error:
        raise BackendUnavailable(f"the listing cannot be understood: {error}", backend=NAME) from error


class _Body:
    """The body of a Get Blob."""

    def __init__(
        self, info: ObjectInfo, answer: Any, length: int | None, most: int | None, digest: tuple[str, str] | None
    ) -> None:
        self.info = info
        self.length = length
        self._left = most  # what is more was not asked for
        self.digest = digest
        self._raw = answer.raw

    def read(self, size: int, /) -> bytes:
        with quiet():
            data = bytes(self._raw.read(size if self._left is None else min(size, self._left)))
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()

    def interrupt(self) -> None:
        try:
            self._raw.shutdown()  # closing it would wait for the read in the other thread
        except Exception:  # noqa: S110  it ended by itself meanwhile
            pass


def check_headers(put: Put) -> Put:
    """``put``, if headers can hold what goes with it."""
    for name, value in _described(put).items():
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise ConfigError(f"{value!r} cannot be sent as {name}: use printable ASCII without spaces around it")
    return put


def _described(put: Put) -> dict[str, str]:
    """The headers of Put Blob and Put Block List."""
    headers = {"x-ms-blob-content-type": put.content_type, **_metadata(put), **_condition(put)}
    for name, value in put.extra.items():
        if name in EXTRA:
            headers[EXTRA[name]] = _tags(value) if name == "azure.tags" else str(value)
    return headers


def _is_gone(error: Refused) -> bool:
    """Whether there is no such blob, in a container that is there."""
    return error.status == 404 and error.code != "ContainerNotFound"


def _is_folder(headers: Mapping[str, str]) -> bool:
    return headers.get("x-ms-resource-type") == "directory" or headers.get(f"x-ms-meta-{FOLDER}", "").lower() == "true"


def _metadata(put: Put) -> dict[str, str]:
    kept = {f"x-ms-meta-{name}": value for name, value in put.metadata.items()}
    return kept if put.write_id is None else {**kept, f"x-ms-meta-{WRITE_ID}": put.write_id}


def _condition(put: Put) -> dict[str, str]:
    if put.create:
        return {"If-None-Match": "*"}
    return {} if put.if_match is None else {"If-Match": quoted(put.if_match)}


def _name(one: ElementTree.Element) -> str:
    found = one.find("Name")
    if found is None or not found.text:
        raise BackendUnavailable("the store lists something without a name", backend=NAME)
    return unquote(found.text) if found.get("Encoded") == "true" else found.text


def _fields(one: ElementTree.Element, name: str) -> dict[str, str | None]:
    found = one.find(name)
    return {} if found is None else {field.tag: field.text for field in found}


def _failure(part: Any) -> Refused:
    return Refused(part.status_code, part.headers.get("x-ms-error-code", ""), str(part.reason or ""))


def quoted(etag: str) -> str:
    if not (etag.isascii() and etag.isprintable()):
        raise ConfigError(f"an etag is printable ASCII, not {etag!r}")
    return NO_ETAG if etag == "*" else f'"{etag}"'  # the service takes a quoted star for any etag


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip('"')


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _md5(base64: str | None, kind: str | None = None) -> dict[str, str] | None:
    """The digest of a block blob: nobody keeps that of others up to date."""
    try:
        digest = b64decode(base64 or "")
    except ValueError:
        return None
    return {"md5": digest.hex()} if len(digest) == 16 and kind in (None, "BlockBlob") else None


def _time(text: str | None) -> datetime | None:
    """A date of HTTP (RFC 9110, section 5.6.7)."""
    return None if not text or len(text) > LONGEST_TIME else _known_time(text)


@lru_cache(maxsize=4096)
def _known_time(text: str) -> datetime | None:
    """A listing says the same ones again and again."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _tags(value: Any) -> str:
    """Tags as the header has them; a mapping is encoded, text is taken as it is."""
    if not isinstance(value, str | Mapping):
        raise ConfigError("azure.tags is a mapping, or text as in a query")
    return value if isinstance(value, str) else urlencode(value)
