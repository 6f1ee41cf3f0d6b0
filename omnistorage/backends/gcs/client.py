"""Google Cloud Storage through google-cloud-storage: an ``ObjectClient``. One request per call, none tried again.

Metadata, listings and small bodies go through the SDK's own calls (the JSON API). Reads are GETs of the XML API, whose
headers alone carry user metadata beside the bytes (emulators send it with the JSON API too, and may answer the other
under one host name only). The chunks of a resumable upload are PUTs to its session
(https://cloud.google.com/storage/docs/performing-resumable-uploads). All travel on the SDK's authorized session.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from urllib.parse import quote

from omnistorage.backends.connections import Connections
from omnistorage.backends.object_store.client import Body, Get, Page, Put, Upload
from omnistorage.backends.object_store.response_marks import span, understood, unmarked
from omnistorage.checksums import new_hash
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    CorruptData,
    NotFound,
    StorageError,
)

from .errors import NAME, Refused, of_part, translate
from .responses import WRITE_ID, ReadBody, Told, bare, base64_of, camel, generation_of, hashes, of_crc

QUANTUM = 256 * 1024
"""All chunks of a resumable upload but its last are a multiple of this."""
LISTED = "kind,items(name,size,timeCreated,generation,md5Hash,crc32c),prefixes,nextPageToken"
EXTRA = frozenset(
    ("gcs.cache_control", "gcs.content_disposition", "gcs.content_encoding", "gcs.content_language",
     "gcs.kms_key_name", "gcs.predefined_acl", "gcs.storage_class")
)  # fmt: skip
_ARGUMENTS = ("gcs.kms_key_name", "gcs.predefined_acl")
"""Those of ``EXTRA`` that are arguments of calls; the others are properties of the object."""


@dataclass
class _Session:
    """What is known of a resumable upload."""

    given: int = 0  # what the parts hold that are done
    sent: int = 0  # what the store has of them
    tail: bytes = b""  # the end of them, which no chunk but the last can hold
    crc: Any = None
    unsure: bool = False  # whether an answer was lost, so that only the store knows how much it has


class GCSClient:
    """``ObjectClient`` over a ``google.cloud.storage.Client`` and its authorized session, for one bucket."""

    def __init__(
        self,
        sdk: Any,
        session: Any,
        bucket: str,
        skip: int,
        *,
        connections: Connections,
        endpoint: str,
        timeout: Any,
        xml: bool,
        resumes: bool,
        batches: bool,
        checksums: bool = True,
    ) -> None:
        self.sdk = sdk
        self.skip = skip
        self._session = session
        self._connections = connections
        self._bucket = sdk.bucket(bucket)
        self._endpoint = endpoint
        self._timeout = timeout
        self._once = {"timeout": timeout, "retry": None}
        self._xml = xml
        self._resumes = resumes
        self._batches = batches
        self._checksums = checksums
        self._sessions: dict[str, _Session] = {}

    def cutter(self) -> Callable[[], None]:
        return self._connections.cutter()

    def close(self) -> None:
        self.sdk.close()
        self._session.close()

    def translate(self, error: BaseException) -> StorageError | None:
        return translate(error)

    def blob(self, key: str, version: str | None = None) -> Any:
        """The SDK's handle of an object."""
        if version is None:
            return self._bucket.blob(key)
        return self._bucket.blob(key, generation=generation_of(version))

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str, get: Get) -> Body:
        headers = {"Accept-Encoding": "gzip"}  # or the store would decompress objects that say they are gzip
        if get.range is not None:
            headers["Range"] = get.range
        wanted: dict[str, Any] = {} if self._xml else {"alt": "media"}
        if get.version is not None:
            wanted["generation"] = generation_of(get.version)
        if get.if_match is not None and self._xml:
            headers["x-goog-if-generation-match"] = str(generation_of(get.if_match))
        elif get.if_match is not None:
            wanted["ifGenerationMatch"] = generation_of(get.if_match)
        answer = self._session.get(
            self._url(key), params=wanted, headers=headers, stream=True, timeout=self._timeout, allow_redirects=False
        )
        try:
            return self._body(key, get, answer)
        except BaseException:
            answer.close()
            raise

    def _url(self, key: str) -> str:
        if not self._xml:
            return f"{self._endpoint}/download/storage/v1/b/{quote(self._bucket.name)}/o/{quote(key, safe='')}"
        # Where segments would be taken for steps, the slashes are encoded too.
        steps = any(segment in (".", "..") for segment in key.split("/"))
        return f"{self._endpoint}/{quote(self._bucket.name)}/{quote(key, safe='~' if steps else '/~')}"

    def _body(self, key: str, get: Get, answer: Any) -> ReadBody:
        if answer.status_code not in (200, 206):
            raise Refused(answer)
        headers = answer.headers
        generation = headers.get("x-goog-generation")
        if get.if_match not in (None, generation) or (generation and get.if_none_match == generation):
            raise Refused(answer, 412, f"the object's generation is {generation}")
        if not generation:
            raise unmarked("an object without x-goog-generation", NAME)
        length, whole = span(
            get, answer.status_code, _number(headers.get("Content-Length")), headers.get("Content-Range"),
            framed="chunked" in headers.get("Transfer-Encoding", "").lower(), backend=NAME,
        )  # fmt: skip
        if whole is None:
            whole = _number(headers.get("x-goog-stored-content-length"))
        stated = dict(item.strip().split("=", 1) for item in headers.get("x-goog-hash", "").split(",") if "=" in item)
        prefix = "x-goog-meta-"
        metadata = {
            name.lower()[len(prefix) :]: value for name, value in headers.items() if name.lower().startswith(prefix)
        }
        info = ObjectInfo(
            key[self.skip :], whole, None, "file", generation, generation,
            headers.get("Content-Type"), hashes(stated.get("md5"), stated.get("crc32c")), bare(metadata),
        )  # fmt: skip
        crc = info.hash("crc32c") if self._checksums else None
        most = length if length is not None or get.end is None else get.end - get.start
        return ReadBody(info, answer, length, most, None if crc is None else ("crc32c", crc))

    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        return self._info(self._reloaded(key, version))

    def written_by(self, key: str) -> tuple[str | None, ObjectInfo]:
        blob = self._reloaded(key, None)
        return (blob.metadata or {}).get(WRITE_ID), self._info(blob)

    def head_for_copy(self, key: str) -> tuple[ObjectInfo, dict[str, Any]]:
        """What ``head`` says, and what else a copy must be told to keep, as ``WriteOptions.extra``."""
        blob = self._reloaded(key, None)
        kept = {name: getattr(blob, name[4:]) for name in EXTRA.difference(_ARGUMENTS)}
        return self._info(blob), {name: value for name, value in kept.items() if value}

    def _reloaded(self, key: str, version: str | None) -> Any:
        blob = self.blob(key, version)
        blob.reload(projection="noAcl", **self._once)
        return blob

    def _info(self, blob: Any) -> ObjectInfo:
        generation, moment = str(blob.generation), blob.time_created
        return ObjectInfo(
            blob.name[self.skip :], blob.size, None if moment is None else moment.astimezone(UTC), "file", generation,
            generation, blob.content_type, hashes(blob.md5_hash, blob.crc32c),
            bare({name.lower(): value for name, value in (blob.metadata or {}).items()}),
        )  # fmt: skip

    def page(self, prefix: str, *, folders: bool, after: str | None, token: Any, limit: int | None) -> Page:
        listing = self.sdk.list_blobs(
            self._bucket, prefix=prefix or None, delimiter="/" if folders else None, start_offset=after,
            page_token=token, max_results=limit, fields=LISTED, **self._once,
        )  # fmt: skip
        skip = self.skip
        objects = []
        with understood("the listing", NAME):
            for blob in next(listing.pages):
                generation = str(blob.generation)
                objects.append(
                    ObjectInfo(
                        blob.name[skip:], blob.size, blob.time_created, "file", generation, generation, None,
                        hashes(blob.md5_hash, blob.crc32c),
                    )
                )  # fmt: skip
        return Page(objects, sorted(listing.prefixes), None if limit is not None else listing.next_page_token)

    def versions(self, key: str, token: Any) -> tuple[list[ObjectInfo], Any]:
        """A page of the versions of exactly ``key``, oldest first."""
        listing = self.sdk.list_blobs(
            self._bucket, prefix=key, end_offset=key + "\0", versions=True, page_token=token, **self._once
        )
        found = [self._info(blob) for blob in next(listing.pages) if blob.name == key]
        return found, listing.next_page_token

    # -- writing -------------------------------------------------------------------------------------------------------

    def _new(self, key: str, put: Put) -> Any:
        blob = self._bucket.blob(key, kms_key_name=put.extra.get("gcs.kms_key_name"))
        blob.content_type = put.content_type
        metadata = dict(put.metadata)
        if put.write_id is not None:
            metadata[WRITE_ID] = put.write_id
        if metadata:
            blob.metadata = metadata
        for name, value in put.extra.items():
            if name not in _ARGUMENTS:
                setattr(blob, name[4:], value)
        return blob

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        """One request, however long the body (the SDK makes two of one over 8 MiB): objects.insert, multipart."""
        metadata = {**put.metadata, **({WRITE_ID: put.write_id} if put.write_id is not None else {})}
        told = {"name": key, "contentType": put.content_type, "metadata": metadata}
        if self._checksums:
            crc = new_hash("crc32c")
            crc.update(data)
            told["crc32c"] = base64_of(crc)
        told |= {camel(name): value for name, value in put.extra.items() if name not in _ARGUMENTS}
        query: dict[str, Any] = {"uploadType": "multipart"}
        query |= {camel(name): put.extra[name] for name in _ARGUMENTS if name in put.extra}
        if put.conditional:
            query["ifGenerationMatch"] = 0 if put.create else generation_of(put.if_match or "")
        mark = uuid.uuid4().hex
        head = f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(told)}\r\n--{mark}\r\n"
        kind = put.content_type.encode("latin-1", "replace")
        body = head.encode() + b"Content-Type: " + kind + b"\r\n\r\n" + data + f"\r\n--{mark}--".encode()
        answer = self._session.post(
            f"{self._endpoint}/upload/storage/v1/b/{quote(self._bucket.name)}/o", params=query, data=body,
            headers={"Content-Type": f"multipart/related; boundary={mark}"}, timeout=self._timeout,
            allow_redirects=False,
        )  # fmt: skip
        return self._made(answer)

    def delete(self, key: str, if_match: str | None) -> bool:
        condition = {} if if_match is None else {"if_generation_match": generation_of(if_match)}
        try:
            self.blob(key).delete(**condition, **self._once)
        except Exception as error:
            ours = translate(error)
            if if_match is not None or not isinstance(ours, NotFound) or isinstance(ours, BucketNotFound):
                raise
            return False
        return True

    def delete_many(self, keys: Sequence[str]) -> list[StorageError | None]:
        if not self._batches:
            return [self._failure(key) for key in keys]
        batch = self.sdk.batch(raise_exception=False)
        try:
            with batch:
                for key in keys:
                    self.blob(key).delete(**self._once)
        except ValueError as error:
            if isinstance(error, UnicodeEncodeError):
                raise
            raise BackendUnavailable("the store's answer to a batch of deletes is none", backend=NAME) from error
        answers = batch._responses
        if len(answers) != len(keys):
            raise BackendUnavailable(f"the store answers {len(answers)} of {len(keys)} deletes", backend=NAME)
        return [of_part(answer) for answer in answers]

    def _failure(self, key: str) -> StorageError | None:
        try:
            self.delete(key, None)
        except Exception as error:
            ours = translate(error)
            if ours is None or ours.transient or isinstance(ours, NotFound):  # the bucket is missing
                raise
            return ours
        return None

    def rewrite(
        self, source: tuple[str, str], key: str, put: Put | None, source_if_match: str | None, token: str | None
    ) -> tuple[str | None, ObjectInfo]:
        """One step of a copy; the token of the next one, None when it is done."""
        blob = self.blob(key) if put is None else self._new(key, put)
        conditions = {} if put is None else _condition(put)
        if source_if_match is not None:
            conditions["if_source_generation_match"] = generation_of(source_if_match)
        origin = self.sdk.bucket(source[0]).blob(source[1])
        token, _, _ = blob.rewrite(origin, token=token, **conditions, **self._once)
        return token, self._info(blob)

    def compose(self, keys: Sequence[str], key: str, put: Put) -> ObjectInfo:
        """One object of up to 32 others, in their order."""
        blob = self._new(key, put)
        blob.compose([self.blob(each) for each in keys], **_condition(put), **self._once)
        return self._info(blob)

    # -- resumable uploads ---------------------------------------------------------------------------------------------

    def start_upload(self, key: str, put: Put) -> Upload:
        try:
            url = self._new(key, put).create_resumable_upload_session(
                content_type=put.content_type, checksum=None, predefined_acl=put.extra.get("gcs.predefined_acl"),
                **_condition(put), **self._once,
            )  # fmt: skip
        except Exception as error:
            if put.create and getattr(error, "code", None) == 412:
                raise AlreadyExists("the object exists, and overwrite=False keeps it", backend=NAME) from error
            raise
        self._sessions[url] = _Session(crc=new_hash("crc32c"))
        return Upload(key, url, put)

    def put_part(self, upload: Upload, number: int, data: bytes) -> str:
        """Parts come one by one; the bytes of the last one that fill no ``QUANTUM`` wait for ``finish_upload``."""
        session = self._sessions[upload.id]
        body = session.tail + data
        begin, whole = session.sent, len(body) - len(body) % QUANTUM
        at = self._where(upload, session)
        while not isinstance(at, ObjectInfo) and at < begin + whole:
            before = at
            at = self._send(upload, session, memoryview(body)[at - begin : whole], at, "*")
            if not isinstance(at, ObjectInfo) and at <= before:
                raise BackendUnavailable("the store took none of a chunk", backend=NAME)
        if isinstance(at, ObjectInfo):
            raise StorageError("the store ended the upload before it was whole", backend=NAME)
        session.sent, session.tail = begin + whole, body[whole:]
        session.crc.update(data)
        session.given += len(data)
        return ""

    def copy_part(self, upload: Upload, number: int, source: Any, start: int, end: int, if_match: str | None) -> str:
        raise CapabilityNotSupported("an upload takes no parts of other objects", capability="copy_part", backend=NAME)

    def finish_upload(self, upload: Upload, tags: Mapping[int, str]) -> ObjectInfo:
        session = self._sessions[upload.id]
        total = session.given
        at = self._where(upload, session)
        if not isinstance(at, ObjectInfo):
            rest = memoryview(session.tail)[at - session.sent :]
            try:
                at = self._send(upload, session, rest, at, str(total), of_crc(session.crc))
            except Refused as error:
                ours = translate(error)
                if isinstance(ours, CorruptData):  # the chunks before are not here any more
                    ours.transient = False
                    raise ours from error
                raise
        if not isinstance(at, ObjectInfo):
            raise BackendUnavailable(f"the store has {at} of the upload's {total} bytes", backend=NAME)
        if at.hash("crc32c") not in (None, session.crc.hexdigest()) or at.size != total:
            self.delete(upload.key, at.etag)
            raise CorruptData("what arrived at the store is not what was sent; it was deleted", backend=NAME)
        del self._sessions[upload.id]
        return at

    def abort_upload(self, upload: Upload) -> None:
        self._sessions.pop(upload.id, None)
        answer = self._told(upload, b"", {"Content-Length": "0"}, "DELETE")
        if answer.status_code not in (*((200,) if not self._resumes else ()), 204, 404, 410, 499):
            raise Refused(answer)

    def etag_of(self, tags: Mapping[int, str]) -> None:
        return None  # generations are the store's to give

    def _where(self, upload: Upload, session: _Session) -> Any:
        """How much the store has of an upload, no less than it had; what it made of it, if that was all."""
        at = self._received(upload, session) if session.unsure else session.sent
        if not isinstance(at, ObjectInfo) and at < session.sent:
            raise StorageError(f"the store has {at} bytes of the upload, and had {session.sent}", backend=NAME)
        return at

    def _send(self, upload: Upload, session: _Session, data: memoryview, at: int, total: str, digest: str = "") -> Any:
        """Send a chunk. How much the store has then; what it made of it, if that was all."""
        session.unsure = True
        span = f"{at}-{at + len(data) - 1}" if data else "*"
        headers = {"Content-Range": f"bytes {span}/{total}", "Content-Length": str(len(data))}
        if digest:
            headers["x-goog-hash"] = digest
        answer = self._told(upload, bytes(data), headers)
        session.unsure = answer.status_code < 300 or answer.status_code >= 500  # it may have taken it all the same
        found = self._progress(answer)
        session.unsure = False
        return found if self._resumes or isinstance(found, ObjectInfo) else at + len(data)

    def _received(self, upload: Upload, session: _Session) -> Any:
        """How much the store has of an upload, or what it made of it."""
        if not self._resumes:
            raise StorageError(
                "the answer to a chunk was lost, and this server does not tell what it has (vendor=...)", backend=NAME
            )
        answer = self._told(upload, b"", {"Content-Range": "bytes */*", "Content-Length": "0"})
        found = self._progress(answer)
        session.unsure = False
        return found

    def _told(self, upload: Upload, data: bytes, headers: dict[str, str], method: str = "PUT") -> Any:
        """The session's answer. Native errors name the session's URL, which is the right to write: none is kept."""
        try:
            return self._session.request(
                method, upload.id, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        except Exception as error:
            ours = translate(error)
            if ours is None:
                raise
            raise ours from None

    def _progress(self, answer: Any) -> Any:
        if answer.status_code == 308:
            span = answer.headers.get("Range")
            if span and not (found := re.fullmatch(r"bytes=0-(\d{1,18})", span)):
                raise BackendUnavailable(f"the store has {span!r} of the upload, which says nothing", backend=NAME)
            return int(found[1]) + 1 if span and found else 0
        if answer.status_code in (404, 410):
            raise NotFound("NoSuchUpload: the store does not know the upload any more", backend=NAME)
        return self._made(answer)

    def _made(self, answer: Any) -> ObjectInfo:
        """The object that an answer says was made."""
        if answer.status_code not in (200, 201):
            raise Refused(answer)
        try:
            told = json.loads(answer.content)
            if told["kind"] != "storage#object":
                raise ValueError("another kind of resource")
            return self._info(Told(told))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise unmarked("what was made is not described", NAME) from error


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None


def _condition(put: Put) -> dict[str, int]:
    if put.create:
        return {"if_generation_match": 0}
    return {} if put.if_match is None else {"if_generation_match": generation_of(put.if_match)}
