"""The marks by which an answer of S3 is known, after the API reference of Amazon S3.

Each operation has its status and a mark: the root of its document, with what that always holds, or a header. A deletion
has neither: there ``x-amz-request-id`` tells, which S3 sends with every answer (a server that does not is named by
``vendor``). A redirect is never followed; the one exception is the SDK's own, to another region of AWS, which needs
``x-amz-bucket-region``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omnistorage.backends.object_store.response_marks import unmarked

from .errors import NAME

REQUEST_ID = "x-amz-request-id"
REGION = "x-amz-bucket-region"


@dataclass(frozen=True)
class Mark:
    """``field`` is what the parsed answer must hold, by the SDK's name, ``roots`` the names that the document's first
    element can have: S3's, then those of other servers."""

    field: str = ""
    roots: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    request_id: bool = False


MARKS = {
    "AbortMultipartUpload": Mark(statuses=(204,), request_id=True),
    "CompleteMultipartUpload": Mark("ETag", ("CompleteMultipartUploadResult",)),
    "CopyObject": Mark("CopyObjectResult.ETag", ("CopyObjectResult",)),
    "CreateMultipartUpload": Mark("UploadId"),
    "DeleteObject": Mark(statuses=(204,), request_id=True),
    "DeleteObjects": Mark(roots=("DeleteResult",), request_id=True),
    "GetObject": Mark("ETag", statuses=(200, 206)),
    "HeadObject": Mark("ETag"),
    "ListMultipartUploads": Mark("IsTruncated", ("ListMultipartUploadsResult",)),
    "ListObjectVersions": Mark("IsTruncated", ("ListVersionsResult",)),
    "ListObjectsV2": Mark("IsTruncated", ("ListBucketResult",)),
    "ListParts": Mark("IsTruncated", ("ListPartsResult", "ListPartsResponse")),
    "PutObject": Mark("ETag"),
    "UploadPart": Mark("ETag"),
    "UploadPartCopy": Mark("CopyPartResult.ETag", ("CopyPartResult",)),
}
_ROOT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>)?\s*<(?:[\w.-]+:)?([\w.-]+)[\s/>]")


def checker(*, request_ids: bool, loose: frozenset[str]) -> Callable[..., None]:
    """A handler of the SDK's event ``after-call``: it raises for a good status without the marks of its operation.

    Args:
        request_ids: Whether the server sends ``x-amz-request-id``.
        loose: Operations whose documents the server writes otherwise.
    """

    def check_or_close(http_response: Any, parsed: Any, model: Any, **_: Any) -> None:
        try:
            check(http_response, parsed, model)
        except BaseException:
            if model.name == "GetObject":  # its body is still to be read
                http_response.raw.close()
            raise

    def check(http_response: Any, parsed: Any, model: Any) -> None:
        mark, status = MARKS.get(model.name), http_response.status_code
        if mark is None or status >= 300:
            if status == 304 and model.name != "GetObject":  # no such answer exists: it is no failed condition
                raise unmarked(f"{model.name} was answered with 304", NAME)
            return
        if status not in mark.statuses:
            raise unmarked(f"{model.name} was answered with {status}", NAME)
        if model.name in loose:
            return
        if mark.roots:
            found = _ROOT.match(http_response.content)
            if found is None or found[1].decode() not in mark.roots:
                # A list in another dialect comes again as it is; a page in its place, or an error, may not.
                dialect = found is not None and found[1].lower() not in (b"html", b"error")
                transient = not (dialect and model.name.startswith("List"))
                raise unmarked(f"the answer to {model.name} is no {mark.roots[0]}", NAME, transient=transient)
        if mark.field and not _has(parsed, mark.field):
            raise unmarked(f"the answer to {model.name} has no {mark.field}", NAME)
        if mark.request_id and request_ids and REQUEST_ID not in http_response.headers:
            raise unmarked(f"the answer to {model.name} has no {REQUEST_ID}", NAME)

    return check_or_close


def _has(parsed: Any, field: str) -> bool:
    for name in field.split("."):
        parsed = parsed.get(name)
        if parsed is None or parsed == "":
            return False
    return True


def stayer(*, custom: bool) -> Callable[..., None]:
    """A handler of the SDK's event ``needs-retry``, before its own: it keeps the request where it is, unless AWS names
    another region of the bucket. ``custom``: the endpoint is not AWS's."""

    def stay(response: Any, request_dict: Any, **_: Any) -> None:
        if response is None:
            return
        named = REGION in response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if custom or not named:
            request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True

    return stay
