"""A second client of S3: reads and small writes through obstore, for about a fifth of the SDK's CPU time.

Everything else stays with the SDK: listings, copies, uploads of parts (a dropped upload of obstore's own would stay at
the store), and what obstore cannot say: versions, further headers, keys that are no path to it. ADR 0010 has the
reasons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from omnistorage.backends.object_store import obstore
from omnistorage.backends.object_store.client import Body, Get, Put
from omnistorage.backends.object_store.obstore import Obstore, answer_of, is_obstores, request_options
from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError

from .client import WRITE_ID, S3Client, _quoted
from .errors import NAME, of_code

T = TypeVar("T")
LEASE = timedelta(minutes=15)
"""How long obstore keeps credentials before it asks the SDK's chain again."""
ETAGS = r"[0-9a-f]{32}(-\d+)?"
_SILENT = frozenset(
    ("AWS_CHECKSUM_ALGORITHM", "AWS_SERVER_SIDE_ENCRYPTION", "AWS_SSE_BUCKET_KEY_ENABLED", "AWS_SSE_KMS_KEY_ID",
     "AWS_SSE_CUSTOMER_KEY_BASE64")
)  # fmt: skip
"""What obstore takes from the environment, the SDK does not, and no option takes back."""


def use_obstore(client: str, suits: bool, session: Any, endpoint: str) -> bool:
    """Whether obstore takes the data path: where it ``suits``, and does what the SDK's ``session`` was told."""
    private_ca = endpoint.startswith("https:") and session.get_config_variable("ca_bundle")
    cannot = "obstore does not know the certificates of ca_bundle" if private_ca else ""
    return obstore.use_obstore(client, suits and not _SILENT & os.environ.keys(), cannot, NAME, endpoint)


class ObstoreS3Client(S3Client):
    """``ObjectClient`` over obstore and the SDK."""

    def __init__(self, sdk: Any, bucket: str, skip: int, *, md5_etags: bool, options: Mapping[str, Any]) -> None:
        super().__init__(sdk, bucket, skip, checksums=False, md5_etags=md5_etags)
        self._second = Obstore("S3Store", bucket, skip, options, write_id=WRITE_ID, etags=ETAGS, quoted=_quoted)

    def translate(self, error: BaseException) -> StorageError | None:
        if not is_obstores(error):
            return super().translate(error)
        if (answer := answer_of(error)) is None:
            return self._second.without_answer(error, NAME)
        status, code, message = answer
        self._second.is_busy = status in (429, 503)
        return of_code(code or str(status), message, status)

    def get(self, key: str, get: Get) -> Body:
        body = self._second.get(key, get) if self._second.gives(key, get) else None
        return self._served(super().get(key, get)) if body is None else body

    def _served(self, result: T) -> T:
        self._second.is_busy = False
        return result

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        if not self._second.takes(key, data, put):
            return self._served(super().put(key, data, put))
        return self._second.put(key, data, put, NAME)


def store_options(endpoint: str, region: str, credentials: Any, timeouts: tuple[float, float]) -> dict[str, Any]:
    """How obstore's store is made: the SDK's endpoint, and the SDK's ``credentials`` (None: not signed). What obstore
    would take from the environment is said here."""
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
        **request_options(endpoint, timeouts),
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
