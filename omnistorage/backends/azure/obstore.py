"""A second client of Azure's Blob service: reads and small writes through obstore, for a fraction of the SDK's CPU
time.

Everything else stays with the SDK: listings, copies, blocks, and what obstore cannot say. So do accounts whose folders
it would take for objects, and a SAS, which it would show to the page that a redirect names. ADR 0010 has the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
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
from omnistorage.core.secret import Secret, mask_url
from omnistorage.errors import StorageError

from .account import DEFAULT, NAME, Account, Clients
from .client import WRITE_ID, AzureClient, quoted
from .transport import Refused

T = TypeVar("T")
ETAGS = "0x[0-9a-f]{1,16}"
SCOPE = "https://storage.azure.com/.default"
_SILENT = frozenset(("AZURE_ENCRYPTION_KEY", "AZURE_STORAGE_ENCRYPTION_KEY"))
"""What obstore takes from the environment, the SDK does not, and no option takes back."""


def unable(account: Account, options: Mapping[str, Any], *, checksums: bool) -> str:
    """What obstore cannot do of what it would have to."""
    if checksums:
        return "obstore does not check what it reads: say checksums=False beside client='obstore'"
    why = ""
    if options["hierarchical"]:
        why = "obstore does not tell folders from objects"
    elif account.sas is not None:
        why = "obstore would show the SAS to wherever a server sends it"
    elif options["api_version"] is not None:
        why = "obstore speaks a version of the API of its own"
    elif options["credential"] not in (None, DEFAULT) and not hasattr(options["credential"], "get_token"):
        why = "obstore takes credentials that give tokens"
    return f"{why}: use client='sdk'" if why else ""


def make_client(account: Account, options: Mapping[str, Any], skip: int, *, checksums: bool) -> AzureClient:
    """The client that ``options`` ask for. "auto" leaves tokens to the SDK, which alone answers the service when it
    asks for one of another tenant."""
    clients = Clients(account, options)  # refuses to lend a token without TLS
    cannot = private_ca(account.url)
    if _SILENT & {name.upper() for name in os.environ}:
        cannot = "obstore would encrypt with the key that the environment holds"
    named = account.key is not None or options["anonymous"]
    suits = named and not unable(account, options, checksums=checksums)
    try:
        if use_obstore(options["client"], suits, cannot, NAME, account.url):
            return ObstoreAzureClient(clients, account, skip, options)
    except BaseException:
        clients.close()
        raise
    return AzureClient(clients, skip, checksums=checksums, hierarchical=options["hierarchical"])


class ObstoreAzureClient(AzureClient):
    """``ObjectClient`` over obstore and the SDK."""

    def __init__(self, clients: Clients, account: Account, skip: int, options: Mapping[str, Any]) -> None:
        super().__init__(clients, skip, checksums=False, hierarchical=False)
        self._lent = None if options["anonymous"] else Lent(lambda: lent_by(account.key, clients.credential))
        timeouts = options["connect_timeout"], options["read_timeout"]
        told = store_options(account, self._lent, timeouts)
        self._second = Obstore(
            "AzureStore", options["container"], skip, told, write_id=WRITE_ID, etags=ETAGS, quoted=quoted
        )

    def translate(self, error: BaseException) -> StorageError | None:
        if not is_obstores(error):
            return super().translate(error)
        if (answer := answer_of(error)) is not None:
            self._second.is_busy = answer[0] in (429, 503)
            return super().translate(_refused(answer))
        failed = None if self._lent is None else self._lent.failed(error)
        ours = None if failed is None else super().translate(failed)
        return ours or self._second.without_answer(error, NAME)

    def get(self, key: str, get: Get) -> Body:
        if "\\" in key or not self._second.gives(key, get):  # obstore makes a slash of a backslash
            return self._served(super().get(key, get))
        try:
            body = self._second.get(key, get)
        except self._second.errors as error:
            answer = answer_of(error)
            if answer is None or answer[0] != 416 or get.start:
                raise
            body = None  # a blob without a byte has no range that begins at 0, and the SDK reads it without one
        if body is None:
            return self._served(super().get(key, get))
        body.info = body.info._replace(version=None)
        return body

    def _served(self, result: T) -> T:
        self._second.is_busy = False
        return result

    def put(self, key: str, data: bytes, put: Put) -> ObjectInfo:
        if not self._second.takes(key, data, put):
            return self._served(super().put(key, data, put))
        try:
            return self._second.put(key, data, put, NAME)._replace(version=None)
        except self._second.errors as error:
            answer = answer_of(error)
            if answer is None:
                raise
            self._second.is_busy = answer[0] in (429, 503)
            return self._beside_blocks(key, data, put, _refused(answer))


def _refused(answer: tuple[int, str, str]) -> Refused:
    status, code, message = answer
    return Refused(status, code, mask_url(message.partition("\n")[0]))


def store_options(account: Account, lent: Lent | None, timeouts: tuple[float, float]) -> dict[str, Any]:
    """How obstore's store is made: the SDK's account and endpoint, and who we are (None: nobody). What obstore would
    take from the environment is said here."""
    options: dict[str, Any] = {
        "account_name": account.name or "anonymous",
        "endpoint": account.url,
        "use_emulator": False,
        "use_fabric_endpoint": False,
        "use_azure_cli": False,
        "disable_tagging": False,
        "skip_signature": lent is None,
        **request_options(account.url, timeouts),
    }
    if lent is not None:
        options["credential_provider"] = lent
    return options


def lent_by(key: Secret | None, credential: Any) -> dict[str, Any]:
    """The account's key, or a token of the SDK's ``credential``."""
    if key is not None:
        return {"access_key": key.reveal(), "expires_at": None}
    token = credential.get_token(SCOPE)
    return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}
