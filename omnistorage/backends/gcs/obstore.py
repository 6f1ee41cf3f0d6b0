"""A second client of Google Cloud Storage: reads and small writes through obstore, for a fraction of the SDK's CPU
time.

obstore speaks the XML API alone, and tells no digest of what it reads: so it takes the data path of a server that is
known to answer that API, where nobody wants checksums. Everything else stays with the SDK, and so do reads under a
condition (obstore's are of another etag than the generation) and what nobody writes. ADR 0010 has the reasons.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from omnistorage.backends.object_store.client import Body, Get, Put
from omnistorage.backends.object_store.obstore import (
    Lent,
    Obstore,
    answer_of,
    is_obstores,
    private_ca,
    request_options,
    use_obstore,
)
from omnistorage.core import ObjectInfo
from omnistorage.errors import StorageError

from .client import GCSClient
from .errors import NAME, _of_status
from .responses import WRITE_ID, generation_of

T = TypeVar("T")
LEASE = timedelta(minutes=15)
"""How long obstore keeps a token that does not say when it ends."""
_SILENT = frozenset(
    ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY", "SERVICE_ACCOUNT")
)
"""Keys that obstore opens, whoever it is told to be, and no option keeps it from it."""


def unable(*, xml: bool, checksums: bool) -> str:
    """What obstore cannot do of what it would have to."""
    if checksums:
        return "obstore does not check what it reads: say checksums=False beside client='obstore'"
    return "" if xml else "obstore speaks the XML API, which this server is not known to answer: use client='sdk'"


def takes_over(client: str, endpoint: str, *, xml: bool, checksums: bool) -> bool:
    """Whether obstore takes the data path."""
    cannot = private_ca(endpoint)
    if _SILENT & {name.upper() for name in os.environ}:
        cannot = "obstore would open the key that the environment names"
    return use_obstore(client, not unable(xml=xml, checksums=checksums), cannot, NAME, endpoint)


class ObstoreGCSClient(GCSClient):
    """``ObjectClient`` over obstore and the SDK."""

    def __init__(self, sdk: Any, session: Any, bucket: str, skip: int, *, credentials: Any, **more: Any) -> None:
        super().__init__(sdk, session, bucket, skip, **more)
        from google.auth.credentials import AnonymousCredentials

        self._nobody = isinstance(credentials, AnonymousCredentials)
        self._lent = Lent(lambda: lent_by(credentials))
        told = store_options(more["endpoint"], self._lent, credentials, more["timeout"], nobody=self._nobody)
        self._second = _Generations(
            "GCSStore", bucket, skip, told,
            write_id=WRITE_ID, etags="[0-9]{1,19}", quoted=lambda etag: str(generation_of(etag)),
        )  # fmt: skip

    def translate(self, error: BaseException) -> StorageError | None:
        if not is_obstores(error):
            return super().translate(error)
        if (answer := answer_of(error)) is not None:
            status, code, message = answer
            self._second.is_busy = status in (429, 503)
            return _of_status(status, ": ".join(filter(None, (code, message))), {})
        failed = self._lent.failed(error)
        ours = None if failed is None else super().translate(failed)
        return ours or self._second.without_answer(error, NAME)

    def get(self, key: str, get: Get) -> Body:
        conditional = get.if_match is not None or get.if_none_match is not None
        body = self._second.get(key, get) if not conditional and self._second.gives(key, get) else None
        if body is None:
            return self._served(super().get(key, get))
        body.info = body.info._replace(modified_at=None)  # what comes is the time of the metadata
        return body

    def _served(self, result: T) -> T:
        self._second.is_busy = False
        return result

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        # For a write obstore asks the machine that it runs on who it is, if it is to be nobody.
        if self._nobody or not self._second.takes(key, data, put):
            return self._served(super().put(key, data, put))
        return self._second.put(key, data, put, NAME)


class _Generations(Obstore):
    """Etags are generations, which obstore calls versions."""

    field = "version"


def store_options(
    endpoint: str, lent: Lent, credentials: Any, timeouts: tuple[float, float], *, nobody: bool
) -> dict[str, Any]:
    """How obstore's store is made: the SDK's endpoint, and who we are. What obstore would take from the environment is
    said here."""
    options = request_options(endpoint, timeouts)
    headers = {"Accept-Encoding": "gzip"}  # or the store would decompress objects that say they are gzip
    if payer := getattr(credentials, "quota_project_id", None):
        headers["x-goog-user-project"] = payer
    options["client_options"]["default_headers"] = headers
    return {"base_url": endpoint, "skip_signature": nobody, "credential_provider": lent, **options}


def lent_by(credentials: Any) -> dict[str, Any]:
    """A token of the SDK's ``credentials``, a new one where the old one ends soon."""
    if not credentials.valid:
        from google.auth.transport.requests import Request

        credentials.refresh(Request())
    ends = credentials.expiry
    return {
        "token": credentials.token,
        "expires_at": datetime.now(UTC) + LEASE if ends is None else ends.replace(tzinfo=UTC),
    }
