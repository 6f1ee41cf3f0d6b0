"""Where an Azure storage account is, and who one is there: endpoints, keys, connection strings, the SDK's clients."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from omnistorage.backends.connections import Connections
from omnistorage.backends.object_store.endpoints import split_endpoint
from omnistorage.core import Features
from omnistorage.core.secret import Secret, mask_url
from omnistorage.errors import CapabilityNotSupported, ConfigError, InvalidPath, MissingExtra

NAME = "azure"
SUFFIX = "core.windows.net"
MICROSOFT = (SUFFIX, "core.chinacloudapi.cn", "core.usgovcloudapi.net")
TOKEN_DOMAINS = (
    *MICROSOFT, "core.cloudapi.de", "core.microsoft.scloud", "core.eaglex.ic.gov", "storage.azure.net",
    "fabric.microsoft.com",
)  # fmt: skip
"""The domains of Microsoft that the machine's own token is for. The endpoints of its clouds for secret data are among
the constants of the Azure Functions host (``CloudConstants.cs``)."""
DEFAULT = "default"
"""As ``credential``: ``DefaultAzureCredential``, for any server."""
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
"""The variable that names an account where no option does, as for Microsoft's own tools."""
# What Microsoft publishes for everybody's emulator.
EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SAFE = "/~"  # what stays as it is in the path of a URL, as in the SDK
SIGNED = {"GET": "r", "HEAD": "r", "PUT": "cw", "DELETE": "d"}
"""The methods that ``presign`` knows, and the permissions each needs."""


@dataclass(frozen=True)
class Account:
    """An account: its name, its two endpoints without a slash at the end, and at most one of ``key`` and ``sas``."""

    name: str | None
    url: str
    dfs_url: str
    microsoft: bool
    key: Secret | None
    sas: Secret | None

    def check_token_audience(self) -> None:
        """Raise ``ConfigError`` for a server that is not Microsoft's. The token of this machine opens every account
        that the machine may use, and whoever wrote a URL may have chosen the server in it."""
        for url in (self.url, self.dfs_url):
            host = (urlsplit(url).hostname or "").lower()
            if not host.endswith(tuple("." + one for one in TOKEN_DOMAINS)):
                raise ConfigError(
                    f"{host!r} is no server of Microsoft's, and is not sent the token of this machine: give "
                    f"account_key, sas_token or anonymous=True, or credential={DEFAULT!r} if it is to have the token"
                )


def account_of(options: Mapping[str, Any]) -> Account:
    """The account that a backend's options speak of. Raises ``ConfigError`` where they are too few or too many."""
    ways = ("account_key", "sas_token", "connection_string", "credential", "anonymous")
    given = [name for name in ways if options[name]]
    if len(given) > 1:
        raise ConfigError(f"there is one way to be known, not both {' and '.join(given)}")
    name, endpoint, dfs = options["account_name"], options["endpoint_url"], options["dfs_endpoint_url"]
    key, sas, suffix = options["account_key"], options["sas_token"], options["endpoint_suffix"]
    connection = options["connection_string"]
    if not (given or name or endpoint) and os.environ.get(CONNECTION):
        connection = Secret(os.environ[CONNECTION])
    if connection is not None:
        if endpoint is not None:
            raise ConfigError("the connection string says where the account is: give no endpoint_url beside it")
        said = _connection(connection.reveal())
        name = said.get("accountname", name)
        suffix, endpoint, dfs = said.get("endpointsuffix", suffix), said.get("blobendpoint"), said.get("dfsendpoint")
        key = Secret(said["accountkey"]) if "accountkey" in said else None
        sas = Secret(said["sharedaccesssignature"].lstrip("?")) if "sharedaccesssignature" in said else None
        if key is None and sas is None:
            raise ConfigError("the connection string holds neither AccountKey nor SharedAccessSignature")
    if endpoint is None:
        if not name:
            raise ConfigError(
                f"which account? give account_name=, endpoint_url= or connection_string=, or set {CONNECTION}"
            )
        endpoint = f"https://{name}.blob.{suffix}"
    url = _checked(endpoint, "endpoint_url")
    name = name or _name_in(url)
    if key is not None and not name:
        raise ConfigError("an account_key needs the account_name")
    host = urlsplit(url).hostname or ""
    dfs_url = url.replace(".blob.", ".dfs.", 1) if dfs is None else _checked(dfs, "dfs_endpoint_url")
    return Account(name, url, dfs_url, host.endswith(tuple("." + one for one in MICROSOFT)), key, sas)


def _connection(text: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError("a connection string is Name=value;Name=value;...")
        said[name.strip().lower()] = value.strip()
    if said.get("usedevelopmentstorage", "").lower() == "true":
        return {
            "accountname": "devstoreaccount1",
            "accountkey": EMULATOR_KEY,
            "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
        }
    if said.get("defaultendpointsprotocol", "https").lower() == "http" and "blobendpoint" not in said:
        said["blobendpoint"] = f"http://{said.get('accountname', '')}.blob.{said.get('endpointsuffix', SUFFIX)}"
    return said


def _checked(endpoint: str, option: str) -> str:
    split_endpoint(endpoint, option, "account_key, sas_token or connection_string")
    return endpoint.rstrip("/")


def _name_in(url: str) -> str | None:
    """The account that an endpoint names: as a host of Microsoft's, or as a path where one host has several."""
    parts = urlsplit(url)
    head, found, _ = (parts.hostname or "").partition(".blob.")
    return head if found else parts.path.strip("/") or None


def features_of(hierarchical: bool) -> Features:
    """What accounts of one kind can do."""
    return Features(
        read=True,
        write=True,
        delete=True,
        list=True,
        sorted_list=not hierarchical,
        stat=True,
        copy=True,
        move=True,
        atomic_move=hierarchical,
        dirs=hierarchical,
        range_read=True,
        lazy_read=True,
        atomic_write=True,
        create_only=True,
        if_match=True,
        user_metadata=True,
        purge=True,
        hashes=frozenset({"md5"}),
        modified_precision=timedelta(seconds=1),
    )


class Clients:
    """The SDK's clients of one container, made together and closed together. The SDK's own retries are off; all share
    one pool of connections."""

    def __init__(self, account: Account, options: Mapping[str, Any]) -> None:
        self._account = account
        self._options = options
        self._own: Any = None
        try:
            import requests
            from azure.core.credentials import AzureSasCredential
            from azure.core.pipeline.transport import RequestsTransport
            from azure.storage.blob import ContainerClient
            from requests.adapters import HTTPAdapter
        except ImportError as error:
            raise _missing() from error
        self.session = requests.Session()
        self.session.auth = lambda request: request  # or a .netrc would be put in the place of ours
        if account.sas is not None:
            logging.getLogger("urllib3.connectionpool").addFilter(_mask)  # its debug messages show URLs
        self.connections = Connections()
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=max(32, 2 * options["concurrency"]))
        self.connections.follow_adapter(adapter)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)
        self._common: dict[str, Any] = {"retry_total": 0, "permit_redirects": False}
        if options["api_version"] is not None:
            self._common["api_version"] = options["api_version"]
        timeouts = {"connection_timeout": options["connect_timeout"], "read_timeout": options["read_timeout"]}
        self._common["transport"] = RequestsTransport(session=self.session, session_owner=False, **timeouts)
        try:
            self.credential = self._credential()
            sas = None if account.sas is None else AzureSasCredential(account.sas.reveal())
            self.container: Any = ContainerClient(
                account.url, options["container"], credential=sas or self.credential, **self._common
            )
        except ValueError as error:
            self.close()
            raise ConfigError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _credential(self) -> Any:
        if self._account.key is not None:
            return {"account_name": self._account.name, "account_key": self._account.key.reveal()}
        if self._account.sas is not None or self._options["anonymous"]:
            return None
        if self._options["credential"] not in (None, DEFAULT):
            return self._options["credential"]
        if self._options["credential"] is None:
            self._account.check_token_audience()
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise _missing() from error
        self._own = DefaultAzureCredential()
        return self._own

    def files(self) -> Any:
        """The client of the same container as a file system, for what hierarchical accounts add."""
        try:
            from azure.storage.filedatalake import FileSystemClient
        except ImportError as error:
            raise _missing() from error
        # As text, a SAS also goes with the source of a rename.
        credential = self.credential if self._account.sas is None else self._account.sas.reveal()
        return FileSystemClient(
            self._account.dfs_url, self._options["container"], credential=credential, **self._common
        )

    def service(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(self._account.url, credential=self.credential, **self._common)

    def signed(self, key: str, permission: str, expires: timedelta) -> str:
        """A SAS for one blob: signed by the account's key, or by one that the service lends to a token's owner."""
        from azure.storage.blob import generate_blob_sas

        if self._account.sas is not None or self.credential is None:
            raise CapabilityNotSupported(
                "only who has the account's key, or a token, can sign for others: a SAS cannot", capability="presign"
            )
        until = datetime.now(UTC) + expires
        wanted: dict[str, Any] = {}
        if self._account.key is not None:
            wanted["account_key"] = self._account.key.reveal()
        else:
            begun = datetime.now(UTC) - timedelta(minutes=5)
            wanted["user_delegation_key"] = self.service().get_user_delegation_key(begun, until)
        if self._account.url.startswith("https:"):
            wanted["protocol"] = "https"
        name = self._account.name or self.container.account_name
        sas = generate_blob_sas(name, self._options["container"], key, permission=permission, expiry=until, **wanted)
        return str(sas)

    def close(self) -> None:
        self.session.close()
        if self._own is not None:
            self._own.close()


def blob_url(container_url: str, key: str) -> str:
    return f"{container_url}/{quote(check_sendable(key), safe=SAFE)}"


def check_sendable(key: str) -> str:
    """``key``, unless the service, or what sends requests to it, would make another name of it."""
    check_text(key)
    if "." in key and not {".", ".."}.isdisjoint(key.split("/")):
        raise InvalidPath("Azure keeps no names with a segment . or ..", backend=NAME)
    if "\\" in key:
        raise InvalidPath("Azure takes a backslash for a slash", backend=NAME)
    return key


def check_text(key: str) -> str:
    """``key``, if it is Unicode: the service knows no bytes that are not."""
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise InvalidPath("Azure keeps names of Unicode alone", backend=NAME) from error
    return key


def root_url(account: Account, container: str, prefix: str) -> str:
    """Two backends with the same URL have the same root."""
    below = f"{prefix}/" if prefix else ""
    scheme, _, host = account.url.partition("://")
    if account.microsoft and scheme == "https":
        return f"abfss://{container}@{host.replace('.blob.', '.dfs.', 1)}/{below}"
    return f"azure+{scheme}://{host}/{container}/{below}"


def _mask(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(mask_url(one) if isinstance(one, str) else one for one in record.args)
    return True


def _missing() -> MissingExtra:
    return MissingExtra(
        "the azure backend needs azure-storage-blob, azure-storage-file-datalake and azure-identity: "
        'pip install "omnistorage[azure]"',
        extra="azure",
        backend=NAME,
    )
