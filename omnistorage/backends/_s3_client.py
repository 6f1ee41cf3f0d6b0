"""The S3 API through boto3: an ``ObjectClient``. One request per call; the SDK's own retries are off.

Imports floor 0 and ``_object_client``; boto3 only when a client is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, TypeVar

from ..core import ObjectInfo
from ..errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from ._base import retry_after
from ._object_client import Body, Get, Page, Put, Upload

T = TypeVar("T")
NAME = "s3"
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

_MISSING = frozenset(("NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NoSuchVersion", "NotFound", "404"))
_DENIED = frozenset(
    ("AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId", "InvalidToken",
     "RequestTimeTooSkewed", "SignatureDoesNotMatch", "AccountProblem", "401", "403")
)  # fmt: skip
_BUSY = frozenset(
    ("ConditionalRequestConflict", "OperationAborted", "SlowDown", "ServiceUnavailable", "Throttling",
     "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "429")
)  # fmt: skip
_AGAIN = frozenset(("InternalError", "RequestTimeout", "500", "502", "503", "504"))
_DAMAGED = frozenset(
    ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody")
)
_NAME = frozenset(("KeyTooLongError", "InvalidObjectName", "XMinioInvalidObjectName"))


class S3Client:
    """``ObjectClient`` over a boto3 client for one bucket."""

    def __init__(self, sdk: Any, bucket: str, skip: int, *, checksums: bool, md5_etags: bool) -> None:
        self.sdk = sdk
        self.skip = skip
        self._bucket = bucket
        self._mode = {"ChecksumMode": "ENABLED"} if checksums else {}
        self._part = {"ChecksumAlgorithm": "CRC32"} if checksums else {}
        # One of the whole object: no download could be held against a checksum of its parts' checksums.
        self._whole = {"ChecksumType": "FULL_OBJECT"} if checksums else {}
        self._md5_etags = md5_etags

    def close(self) -> None:
        self.sdk.close()

    def translate(self, error: BaseException) -> StorageError | None:
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
        if get.version not in (None, "null", answer.get("VersionId")):
            answer["Body"].close()  # a server that knows no versions gives what it has
            raise NotFound("no such version", backend=NAME)
        told = str(answer.get("ContentRange", "bytes 0-"))  # a server may ignore the range, and give all
        if get.range is not None and not told.startswith(f"bytes {get.start}-"):
            answer["Body"].close()
            raise CapabilityNotSupported(
                "the server gives another range than it was asked for", capability="range_read"
            )
        info = self._info(key, answer)
        if get.end is not None and answer.get("ContentLength") is not None:  # what is more was not asked for
            answer["ContentLength"] = min(answer["ContentLength"], get.end - get.start)
        return _Body(info, answer, _digest(answer, info) if self._mode else None)

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
        size = answer.get("ContentLength")
        whole = answer.get("ContentRange")
        if whole is None and answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 206:
            size = None  # of a part: that of the whole is not told
        if whole is not None:
            total = whole.rpartition("/")[2]
            size = int(total) if total.isdigit() else None
        moment = answer.get("LastModified")
        metadata = {name.lower(): value for name, value in (answer.get("Metadata") or {}).items()}
        metadata.pop(WRITE_ID, None)
        return ObjectInfo(
            key[self.skip :],
            size,
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
        objects = [
            ObjectInfo(
                row["Key"][skip:], row["Size"], row["LastModified"].astimezone(UTC), "file", row["ETag"].strip('"')
            )
            for row in answer.get("Contents", ())
        ]
        return Page(
            objects,
            [row["Prefix"] for row in answer.get("CommonPrefixes", ())],
            _more(answer, answer.get("NextContinuationToken")),
        )

    def versions(self, key: str, token: Any) -> tuple[list[ObjectInfo], Any]:
        """A page of the versions of exactly ``key``, newest first."""
        answer = self.sdk.list_object_versions(Bucket=self._bucket, Prefix=key, **(token or {}))
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
        if not answer.get("ETag"):
            raise BackendUnavailable("the store ended the upload with an answer that says nothing", backend=NAME)
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
        found = [(row["Key"], row["UploadId"], row["Initiated"].astimezone(UTC)) for row in answer.get("Uploads", ())]
        more = {"KeyMarker": answer.get("NextKeyMarker"), "UploadIdMarker": answer.get("NextUploadIdMarker")}
        more = {name: value for name, value in more.items() if value}
        return found, _more(answer, more)

    def parts(self, key: str, upload: str, token: Any) -> tuple[list[tuple[int, Any]], Any]:
        """A page of the parts of an upload: size, and when each arrived."""
        wanted = {} if token is None else {"PartNumberMarker": token}
        answer = self.sdk.list_parts(Bucket=self._bucket, Key=key, UploadId=upload, **wanted)
        found = [(row["Size"], row["LastModified"].astimezone(UTC)) for row in answer.get("Parts", ())]
        return found, _more(answer, answer.get("NextPartNumberMarker"))

    def tagged(self, upload: Upload, token: Any) -> tuple[list[tuple[int, int, str]], Any]:
        """A page of the same as number, size and tag."""
        wanted = {} if token is None else {"PartNumberMarker": token}
        answer = self.sdk.list_parts(Bucket=self._bucket, Key=upload.key, UploadId=upload.id, **wanted)
        found = []
        for row in answer.get("Parts", ()):
            checksum = row.get("ChecksumCRC32")
            tag = f"{row['ETag']} {checksum}" if checksum and self._part else str(row["ETag"])
            found.append((row["PartNumber"], row["Size"], tag))
        return found, _more(answer, answer.get("NextPartNumberMarker"))


class _Body:
    """The body of a GetObject."""

    def __init__(self, info: ObjectInfo, answer: Mapping[str, Any], digest: tuple[str, str] | None) -> None:
        self.info = info
        self.length: int | None = answer.get("ContentLength")
        self.digest = digest
        self._body = answer["Body"]
        # Below boto3's own body, whose checks end with the connection: the reader's go on over several.
        self._raw = getattr(self._body, "_raw_stream", self._body)

    def read(self, size: int, /) -> bytes:
        return bytes(self._raw.read(size))

    def close(self) -> None:
        self._body.close()

    def interrupt(self) -> None:
        shutdown = getattr(self._raw, "shutdown", None)  # urllib3 2.3 and newer: ends a read in another thread
        try:
            (shutdown or self._body.close)()
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
    error = None if row is None else _of_code(row.get("Code", ""), row.get("Message", ""), 0)
    return None if isinstance(error, NotFound) else error


# -- errors ------------------------------------------------------------------------------------------------------------


def translate(error: BaseException) -> StorageError | None:
    """Ours for an error of botocore; None for what is none of its."""
    from botocore import exceptions as native

    if isinstance(error, native.ClientError):
        return _of_answer(error.response)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, native.FlexibleChecksumError):
        return CorruptData(
            f"the body does not have the checksum that came with it: {error}", transient=True, backend=NAME
        )
    if isinstance(error, native.NoCredentialsError | native.PartialCredentialsError | native.CredentialRetrievalError):
        return PermissionDenied(f"no usable credentials: {error}", backend=NAME)
    if isinstance(error, native.EndpointConnectionError | native.ConnectTimeoutError | native.ProxyConnectionError):
        return BackendUnavailable(text, retry_after=0.0, backend=NAME)  # nothing was sent
    if isinstance(error, native.SSLError):  # the wrong certificate stays wrong; what breaks off may go on
        return BackendUnavailable(text, transient="CERTIFICATE_VERIFY_FAILED" not in text, backend=NAME)
    if isinstance(error, native.HTTPClientError | native.IncompleteReadError | native.ResponseStreamingError):
        return BackendUnavailable(text, backend=NAME)
    if isinstance(error, native.ConnectionError | native.ConnectionClosedError | native.ReadTimeoutError):
        return BackendUnavailable(text, backend=NAME)
    if type(error).__name__ == "ResponseParserError":
        return BackendUnavailable(f"the answer cannot be understood: {error}", backend=NAME)
    if isinstance(error, UnicodeEncodeError):
        return InvalidPath("the key of an object is UTF-8, and this name is not", backend=NAME)
    if isinstance(error, native.ParamValidationError | native.BotoCoreError):
        return ConfigError(text, backend=NAME)
    if isinstance(error, OSError):
        return BackendUnavailable(text, backend=NAME)
    if type(error).__module__.partition(".")[0] == "urllib3":
        return BackendUnavailable(text, backend=NAME)
    return None


def _of_answer(response: Mapping[str, Any]) -> StorageError:
    told, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0) or 0)
    error = _of_code(str(told.get("Code", "")), str(told.get("Message", "")), status)
    asked = retry_after(meta.get("HTTPHeaders", {}).get("retry-after"))
    if asked is not None and error.retry_after is not None:  # only where nothing was done
        error.retry_after = asked
    return error


def _of_code(code: str, message: str, status: int) -> StorageError:
    text = f"{code}: {message}" if message else code or f"HTTP {status}"
    if code in ("PreconditionFailed", "412", "NotModified", "304") or status in (304, 412):
        return PreconditionFailed(text, backend=NAME)
    if code in _MISSING or (status == 404 and code not in _AGAIN):
        return NotFound("no such bucket" if code == "NoSuchBucket" else f"no such object ({text})", backend=NAME)
    if code in _BUSY or status == 429:
        return BackendUnavailable(text, retry_after=0.0, backend=NAME)  # it says that it did nothing
    if code == "InvalidObjectState":
        return PermissionDenied(f"the object is archived, restore it first: {text}", backend=NAME)
    if code in _DENIED or (status in (401, 403) and code not in _DAMAGED):
        return PermissionDenied(text, backend=NAME)
    if code in _DAMAGED:
        return CorruptData(
            f"what arrived at the store is not what was sent: {text}", transient=True, retry_after=0.0, backend=NAME
        )
    if code in _AGAIN or (status >= 500 and status != 501):
        return BackendUnavailable(text, backend=NAME)
    if code == "NotImplemented" or status == 501:
        return CapabilityNotSupported(f"the server cannot do this: {text}", capability=code, backend=NAME)
    if code in _NAME:
        return InvalidPath(f"the store cannot hold such a name: {text}", backend=NAME)
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return ConfigError(f"another region has this bucket, set region=...: {text}", backend=NAME)
    if status in (301, 307, 308):
        return ConfigError(f"the endpoint sends elsewhere, set region=... or endpoint_url=...: {text}", backend=NAME)
    return StorageError(text, backend=NAME)


def is_too_long(error: StorageError) -> bool:
    """Whether a copy was refused for the length of its source."""
    text = str(error.args[0])
    return ("InvalidRequest" in text and "maximum" in text) or "EntityTooLarge" in text
