"""The marks by which an answer of Google Cloud Storage is known, after its JSON API reference.

A resource says its ``kind``, a deletion has the status 204 and no body, an object its generation. Google adds
``X-GUploader-UploadID`` to every answer: it is demanded of deletions, which have nothing else, where ``vendor`` says
that the server sends it. A redirect is never followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from omnistorage.backends.object_store.response_marks import unmarked

from .errors import NAME, Refused

ID = "X-GUploader-UploadID"
JSON = "application/json"
_KINDS = (
    ("GET", r"/o", "storage#objects"),
    ("GET", r"/o/[^/]+", "storage#object"),
    ("PATCH", r"/o/[^/]+", "storage#object"),
    ("POST", r"/o/[^/]+/rewriteTo/.*", "storage#rewriteResponse"),
    ("POST", r"/o/[^/]+/compose", "storage#object"),
)
_METADATA = re.compile(r"/storage/v1/b/[^/]+(/o.*)")


def checker(*, ids: bool, bodies: bool) -> Callable[..., None]:
    """A hook of the session, called with each answer before anything is made of it.

    Args:
        ids: Whether the server sends ``X-GUploader-UploadID``.
        bodies: Whether it answers deletions with 200 and a document.
    """

    def check_or_close(answer: Any, **_: Any) -> None:
        try:
            check(answer)
        except BaseException:
            answer.close()
            raise

    def check(answer: Any) -> None:
        method, status = answer.request.method, answer.status_code
        if 300 <= status < 400 and not _is_ours(method, status, answer):
            raise Refused(answer, 300, f"{method} was answered with {status}, and no redirect is followed")
        parts = urlsplit(answer.request.url)
        found = _METADATA.fullmatch(parts.path)
        if status >= 300 or found is None or parts.path.startswith(("/upload/", "/download/")):
            return
        if "alt=media" not in parts.query:
            _check_resource(method, found[1], answer, ids, bodies)

    return check_or_close


def _is_ours(method: str, status: int, answer: Any) -> bool:
    """304 answers the condition of a GET; 308 asks for the next chunk of an upload, and names no other place."""
    return (status == 304 and method == "GET") or (status == 308 and "Location" not in answer.headers)


def _check_resource(method: str, path: str, answer: Any, ids: bool, bodies: bool) -> None:
    if method == "DELETE":
        if bodies and answer.status_code == 200 and answer.headers.get("Content-Type", "").startswith(JSON):
            return
        if answer.status_code != 204 or answer.content or (ids and ID not in answer.headers):
            raise unmarked(f"the answer to DELETE ({answer.status_code}) has a body or no {ID}", NAME)
        return
    wanted = [kind for verb, pattern, kind in _KINDS if verb == method and re.fullmatch(pattern, path)]
    try:
        kind = json.loads(answer.content).get("kind") if wanted else None
    except (ValueError, AttributeError, RecursionError):
        kind = None
    if wanted and (kind != wanted[0] or answer.status_code != 200):
        raise unmarked(f"the answer to {method} is no {wanted[0]}", NAME)
