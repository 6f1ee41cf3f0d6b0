"""The S3 API through boto3: an ``ObjectClient``. One request per call; the SDK's own retries are off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, TypeVar

from omnistorage.backends.object_store.client import Body, Get, Page, Put, Upload
from omnistorage.backends.object_store.response_marks import span, understood, unmarked
from omnistorage.core import ObjectInfo
from omnistorage.errors import BackendUnavailable, NotFound, StorageError

from .botocore_tuning import follow_sdk
from .errors import NAME, of_code, translate

T = TypeVar("T")
WRITE_ID = "omnistorage-write-id"
"""Key of user metadata; users' own keys hold no dash."""

EXTRA = {
    "s3.acl": "ACL",
    "s3.cache_control": "CacheControl",
    "s3.content_disposition": "ContentDisposition",
    "s3.content_encoding": "ContentEncoding",
    "s3.content_language": "ContentLanguage",
    "s3.server_side_encryption": "ServerSideEncryption",
    "s3.sse_kms_key_id": "SSEKMSKeyId",
    "s3.storage_class": "StorageClass",
    "s3.tags": "Tagging",
}
"""``WriteOptions.extra`` -> the parameter of PutObject, CreateMultipartUpload and CopyObject."""


class S3Client:
    """``ObjectClient`` over a boto3 client for one bucket."""

    def __init__(self, sdk: Any, bucket: str, skip: int, *, checksums: bool, md5_etags: bool) -> None:
        self.sdk = sdk
        self.skip = skip
        self._connections = follow_sdk(sdk)
        self._bucket = bucket
        self._mode = {"ChecksumMode": "ENABLED"} if checksums else {}
        self._part = {"ChecksumAlgorithm": "CRC32"} if checksums else {}
        # One of the whole object: no download could be held against a checksum of its parts' checksums.
        self._whole = {"ChecksumType": "FULL_OBJECT"} if checksums else {}
        self._md5_etags = md5_etags

    def cutter(self) -> Callable[[], None]:
        return self._connections.cutter()

    def close(self) -> None:
        self.sdk.close()

    def translate(self, error: BaseException) -> StorageError | None:
        if type(error) is ValueError:  # a header that should hold a number or a time
            return unmarked(f"a header holds what it cannot: {error}", NAME)
        return translate(error)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str, get: Get) -> Body:
        wanted: dict[str, Any] = {}
        if get.range is not None:
            wanted["Range"] = get.range
        else:
            wanted.update(self._mode)  # the checksum is of the whole object
        if get.if_match is not None:
            wanted["IfMatch"] = _quoted(get.if_match)
        if get.if_none_match is not None:
            wanted["IfNoneMatch"] = _quoted(get.if_none_match)
        if get.version is not None:
            wanted["VersionId"] = get.version
        answer = self.sdk.get_object(Bucket=self._bucket, Key=key, **wanted)
        try:
            return self._body(key, get, answer)
        except BaseException:
            answer["Body"].close()
            raise

    def _body(self, key: str, get: Get, answer: Mapping[str, Any]) -> _Body:
        if get.version not in (None, "null", answer.get("VersionId")):
            raise NotFound("no such version", backend=NAME)  # a server that knows no versions gives what it has
        meta = answer["ResponseMetadata"]
        length, whole = span(
            get, meta["HTTPStatusCode"], answer.get("ContentLength"), answer.get("ContentRange"),
            framed="chunked" in meta["HTTPHeaders"].get("transfer-encoding", "").lower(), backend=NAME,
        )  # fmt: skip
        info = self._info(key, answer)._replace(size=whole)
        most = length if length is not None or get.end is None else get.end - get.start
        return _Body(info, answer, length, most, _digest(answer, info) if self._mode else None)

    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        return self._info(key, self._head(key, version))

    def written_by(self, key: str) -> tuple[str | None, ObjectInfo]:
        answer = self._head(key, None)
        metadata = {name.lower(): value for name, value in (answer.get("Metadata") or {}).items()}
        return metadata.get(WRITE_ID), self._info(key, answer)

    def head_for_copy(self, key: str) -> tuple[ObjectInfo, dict[str, Any]]:
        """What ``head`` says, and what else a copy must be told to keep, as ``WriteOptions.extra``."""
        answer = self._head(key, None)
        kept = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "StorageClass")
        return self._info(key, answer), {
            name: answer[field] for name, field in EXTRA.items() if field in kept and answer.get(field)
        }

    def _head(self, key: str, version: str | None) -> Any:
        wanted = {} if version is None else {"VersionId": version}
        return self.sdk.head_object(Bucket=self._bucket, Key=key, **self._mode, **wanted)

    def _info(self, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
        moment = answer.get("LastModified")
        metadata = {name.lower(): value for name, value in (answer.get("Metadata") or {}).items()}
        metadata.pop(WRITE_ID, None)
        return ObjectInfo(
            key[self.skip :],
            answer.get("ContentLength"),
            None if moment is None else moment.astimezone(UTC),
            "file",
            _bare(answer.get("ETag")),
            answer.get("VersionId"),
            answer.get("ContentType"),
            self._hashes(answer),
            metadata,
        )

    def _hashes(self, answer: Mapping[str, Any]) -> dict[str, str] | None:
        """What is known to be a digest of the whole object. An ETag is its MD5 only where the server says so, and not
        under a customer's or KMS key, nor for objects of several parts."""
        found: dict[str, str] = {}
        etag = _bare(answer.get("ETag")) or ""
        keyed = answer.get("SSECustomerAlgorithm") or answer.get("ServerSideEncryption") not in (None, "AES256")
        if self._md5_etags and len(etag) == 32 and not keyed:
            found["md5"] = etag
        if answer.get("ChecksumType") != "COMPOSITE" and "ContentRange" not in answer:
            for name, field in (("crc32c", "ChecksumCRC32C"), ("sha256", "ChecksumSHA256"), ("sha1", "ChecksumSHA1")):
                if (value := answer.get(field)) and "-" not in value:
                    found[name] = _hex(value)
        return found or None

    def page(self, prefix: str, *, folders: bool, after: str | None, token: Any, limit: int | None) -> Page:
        wanted: dict[str, Any] = {"Prefix": prefix}
        if folders:
            wanted["Delimiter"] = "/"
        if token is not None:
            wanted["ContinuationToken"] = token
        elif after is not None:
            wanted["StartAfter"] = after
        if limit is not None:
            wanted["MaxKeys"] = limit
        answer = self.sdk.list_objects_v2(Bucket=self._bucket, **wanted)
        skip = self.skip
        with understood("the listing", NAME):
            objects = [
                ObjectInfo(
                    row["Key"][skip:], row["Size"], row["LastModified"].astimezone(UTC), "file", row["ETag"].strip('"')
                )
                for row in answer.get("Contents", ())
            ]
            below = [row["Prefix"] for row in answer.get("CommonPrefixes", ())]
        return Page(objects, below, _more(answer, answer.get("NextContinuationToken")))

    def versions(self, key: str, token: Any) -> tuple[list[ObjectInfo], Any]:
        """A page of the versions of exactly ``key``, newest first."""
        answer = self.sdk.list_object_versions(Bucket=self._bucket, Prefix=key, **(token or {}))
        with understood("the list of versions", NAME):
            found = [
                ObjectInfo(
                    key[self.skip :], row["Size"], row["LastModified"].astimezone(UTC), "file", _bare(row["ETag"]),
                    row["VersionId"],
                )
                for row in answer.get("Versions", ()) if row["Key"] == key
            ]  # fmt: skip
        more = {"KeyMarker": answer.get("NextKeyMarker"), "VersionIdMarker": answer.get("NextVersionIdMarker")}
        past = (answer.get("NextKeyMarker") or key) > key
        more = {name: value for name, value in more.items() if value}
        return found, None if past else _more(answer, more)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _with(self, put: Put) -> dict[str, Any]:
        wanted: dict[str, Any] = {"ContentType": put.content_type}
        metadata = dict(put.metadata)
        if put.write_id is not None:
            metadata[WRITE_ID] = put.write_id
        if metadata:
            wanted["Metadata"] = metadata
        for name, value in put.extra.items():
            wanted[EXTRA[name]] = _tags(value) if name == "s3.tags" else value
        return wanted

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        answer = self.sdk.put_object(
            Bucket=self._bucket, Key=key, Body=data, **self._with(put), **_condition(put), **self._part
        )
        return self._published(key, answer, len(data))

    def _published(self, key: str, answer: Mapping[str, Any], size: int | None) -> ObjectInfo:
        return ObjectInfo(
            key[self.skip :], size, None, "file", _bare(answer.get("ETag")), answer.get("VersionId"), None,
            self._hashes(answer),
        )  # fmt: skip

    def delete(self, key: str, if_match: str | None) -> None:
        condition = {} if if_match is None else {"IfMatch": _quoted(if_match)}
        self.sdk.delete_object(Bucket=self._bucket, Key=key, **condition)

    def delete_many(self, keys: Sequence[str]) -> list[StorageError | None]:
        answer = self.sdk.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        failed = {row.get("Key", ""): row for row in answer.get("Errors", ())}
        if failed.keys() - set(keys):
            raise StorageError(f"the store speaks of other keys than it was asked to delete: {failed}", backend=NAME)
        return [_failure(failed.get(key)) for key in keys]

    def copy(
        self, source: tuple[str, str], key: str, put: Put | None, source_if_match: str | None, *, keep: bool = False
    ) -> ObjectInfo:
        """``put``: the conditions on ``key``, and what the copy has for the source's metadata unless those are to be
        kept."""
        wanted: dict[str, Any] = {"MetadataDirective": "COPY"} | ({} if put is None else _condition(put))
        if put is not None and not keep:
            wanted |= {"MetadataDirective": "REPLACE", **self._with(put)}
        if source_if_match is not None:
            wanted["CopySourceIfMatch"] = _quoted(source_if_match)
        answer = self.sdk.copy_object(
            Bucket=self._bucket, Key=key, CopySource={"Bucket": source[0], "Key": source[1]}, **wanted
        )
        result = {"VersionId": answer.get("VersionId"), **answer.get("CopyObjectResult", {})}
        sealed = {name: answer[name] for name in ("ServerSideEncryption", "SSECustomerAlgorithm") if name in answer}
        info = self._published(key, {"ETag": result.get("ETag"), "VersionId": result["VersionId"], **sealed}, None)
        moment = result.get("LastModified")
        return info if moment is None else info._replace(modified_at=moment.astimezone(UTC))

    # -- multipart uploads ---------------------------------------------------------------------------------------------

    def start_upload(self, key: str, put: Put) -> Upload:
        answer = self.sdk.create_multipart_upload(
            Bucket=self._bucket, Key=key, **self._with(put), **self._part, **self._whole
        )
        return Upload(key, answer["UploadId"], put)

    def put_part(self, upload: Upload, number: int, data: bytes) -> str:
        answer = self.sdk.upload_part(
            Bucket=self._bucket, Key=upload.key, UploadId=upload.id, PartNumber=number, Body=data, **self._part
        )
        checksum = answer.get("ChecksumCRC32")
        return f"{answer['ETag']} {checksum}" if checksum and self._part else str(answer["ETag"])

    def copy_part(
        self, upload: Upload, number: int, source: tuple[str, str], start: int, end: int, if_match: str | None
    ) -> str:
        condition = {} if if_match is None else {"CopySourceIfMatch": _quoted(if_match)}
        answer = self.sdk.upload_part_copy(
            Bucket=self._bucket, Key=upload.key, UploadId=upload.id, PartNumber=number,
            CopySource={"Bucket": source[0], "Key": source[1]}, CopySourceRange=f"bytes={start}-{end - 1}", **condition,
        )  # fmt: skip
        result = answer["CopyPartResult"]
        checksum = result.get("ChecksumCRC32")
        return f"{result['ETag']} {checksum}" if checksum and self._part else str(result["ETag"])

    def finish_upload(self, upload: Upload, tags: Mapping[int, str]) -> ObjectInfo:
        parts = []
        for number in sorted(tags):
            etag, _, checksum = tags[number].partition(" ")
            parts.append({"PartNumber": number, "ETag": etag, **({"ChecksumCRC32": checksum} if checksum else {})})
        answer = self.sdk.complete_multipart_upload(
            Bucket=self._bucket, Key=upload.key, UploadId=upload.id, MultipartUpload={"Parts": parts},
            **self._whole, **_condition(upload.put),
        )  # fmt: skip
        return self._published(upload.key, {"ETag": answer["ETag"], "VersionId": answer.get("VersionId")}, None)

    def abort_upload(self, upload: Upload) -> None:
        self.sdk.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.id)

    def etag_of(self, tags: Mapping[int, str]) -> str | None:
        """The MD5 of the parts' MD5s, and their number, where the parts' etags are MD5s."""
        etags = [(_bare(tags[number].partition(" ")[0]) or "") for number in sorted(tags)]
        if any(len(etag) != 32 for etag in etags):
            return None
        whole = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in etags), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(etags)}"

    def uploads(self, prefix: str, token: Any) -> tuple[list[tuple[str, str, Any]], Any]:
        """A page of the multipart uploads under way: key, id, and when each was begun."""
        answer = self.sdk.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix, **(token or {}))
        rows = answer.get("Uploads", ())
        with understood("the list of uploads", NAME):
            found = [(row["Key"], row["UploadId"], row["Initiated"].astimezone(UTC)) for row in rows]
        more = {"KeyMarker": answer.get("NextKeyMarker"), "UploadIdMarker": answer.get("NextUploadIdMarker")}
        more = {name: value for name, value in more.items() if value}
        return found, _more(answer, more)

    def parts(self, key: str, upload: str, token: Any) -> tuple[list[tuple[int, Any]], Any]:
        """A page of the parts of an upload: size, and when each arrived."""
        wanted = {} if token is None else {"PartNumberMarker": token}
        answer = self.sdk.list_parts(Bucket=self._bucket, Key=key, UploadId=upload, **wanted)
        with understood("the list of parts", NAME):
            found = [(row["Size"], row["LastModified"].astimezone(UTC)) for row in answer.get("Parts", ())]
        return found, _more(answer, answer.get("NextPartNumberMarker"))

    def tagged(self, upload: Upload, token: Any) -> tuple[list[tuple[int, int, str]], Any]:
        """A page of the same as number, size and tag."""
        wanted = {} if token is None else {"PartNumberMarker": token}
        answer = self.sdk.list_parts(Bucket=self._bucket, Key=upload.key, UploadId=upload.id, **wanted)
        found = []
        with understood("the list of parts", NAME):
            for row in answer.get("Parts", ()):
                checksum = row.get("ChecksumCRC32")
                tag = f"{row['ETag']} {checksum}" if checksum and self._part else str(row["ETag"])
                found.append((row["PartNumber"], row["Size"], tag))
        return found, _more(answer, answer.get("NextPartNumberMarker"))


class _Body:
    """The body of a GetObject."""

    def __init__(
        self, info: ObjectInfo, answer: Mapping[str, Any], length: int | None, most: int | None,
        digest: tuple[str, str] | None,
    ) -> None:  # fmt: skip
        self.info = info
        self.length = length
        self.digest = digest
        self._left = most  # what is more was not asked for
        self._body = answer["Body"]
        # Below boto3's own body, whose checks end with the connection: the reader's go on over several.
        self._raw = getattr(self._body, "_raw_stream", self._body)

    def read(self, size: int, /) -> bytes:
        data = bytes(self._raw.read(size if self._left is None else min(size, self._left)))
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        self._body.close()

    def interrupt(self) -> None:
        try:
            self._raw.shutdown()  # closing it would wait for the read in the other thread
        except Exception:  # noqa: S110  it ended by itself meanwhile
            pass


def _digest(answer: Mapping[str, Any], info: ObjectInfo) -> tuple[str, str] | None:
    """One that we can compute of the bytes of the whole object."""
    if answer.get("ChecksumType") != "COMPOSITE":
        for name in ("CRC32", "CRC32C", "SHA256", "SHA1"):
            value = answer.get(f"Checksum{name}")
            if value and "-" not in value:
                return name.lower(), _hex(value)
    md5 = info.hash("md5")
    return None if md5 is None else ("md5", md5)


def _condition(put: Put) -> dict[str, str]:
    if put.create:
        return {"IfNoneMatch": "*"}
    return {} if put.if_match is None else {"IfMatch": _quoted(put.if_match)}


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _bare(etag: str | None) -> str | None:
    return None if etag is None else etag.strip('"')


def _hex(base64: str) -> str:
    from binascii import a2b_base64

    return a2b_base64(base64).hex()


def _tags(value: Any) -> str:
    """Tags as the header has them; a mapping is encoded, text is taken as it is."""
    if isinstance(value, str):
        return value
    from urllib.parse import urlencode

    return urlencode(value)


def _more(answer: Mapping[str, Any], token: T) -> T | None:
    """The token of the next page. A page that says there is more, and not where, is no end."""
    if answer.get("IsTruncated") and not token:
        raise BackendUnavailable("the store says that its listing goes on, and not where", backend=NAME)
    return token if answer.get("IsTruncated") else None


def _failure(row: Mapping[str, str] | None) -> StorageError | None:
    """What a DeleteObjects answer says of one key; one that was not there is no failure."""
    error = None if row is None else of_code(row.get("Code", ""), row.get("Message", ""), 0)
    return None if isinstance(error, NotFound) else error
