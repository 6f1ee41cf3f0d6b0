"""What a hierarchical namespace adds to an Azure account: folders, renames, recursive deletes.

Data goes through the Blob service, as on flat accounts; this is the Data Lake service, through its own SDK. Each call
is one request, but for the deletion of a folder under a token, where the service checks permissions page by page.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

from omnistorage.backends.object_store.client import Put
from omnistorage.backends.object_store.response_marks import unmarked
from omnistorage.core import ObjectInfo
from omnistorage.errors import BackendUnavailable, InvalidPath

from .account import NAME, check_sendable
from .client import WRITE_ID, AzureClient, _bare, quoted
from .transport import REQUEST_ID, Refused, quiet


class Folders:
    """The folders of one container. Paths are whole keys, without a slash at the end."""

    def __init__(self, client: AzureClient) -> None:
        self._client = client
        self._files: Any = client.clients.files()

    def make(self, key: str) -> bool:
        """A folder, and those above it; False if there is something of this name."""
        try:
            with quiet():
                self._files.get_directory_client(key).create_directory(raw_response_hook=_check_id, **_only_new())
        except Refused as error:
            if error.status != 409 or error.code not in ("PathAlreadyExists", "ResourceAlreadyExists"):
                raise
            return False
        return True

    def delete_object(self, key: str, if_match: str | None) -> bool:
        """An object, never a folder: without ``recursive`` the service takes files alone."""
        if key.endswith("/"):  # which the SDK drops
            return False
        check_sendable(key)
        try:
            with quiet():
                self._files.get_file_client(key).delete_file(raw_response_hook=_check_id, **_matching(if_match))
        except Refused as error:
            if _is_no_object(error):
                return False
            raise
        return True

    def remove(self, key: str) -> None:
        """An empty folder: the Blob service refuses others."""
        self._client.wire.send("DELETE", key)

    def remove_all(self, key: str) -> None:
        """A folder with all that is in it, at once."""
        with quiet():
            self._files.get_directory_client(key).delete_directory(raw_response_hook=_check_id)

    def rename(self, src: str, dst: str, put: Put, etag: str | None) -> ObjectInfo:
        """Move the object ``src``, as it was when it had ``etag``, in one step. What stood at ``dst`` is replaced."""
        if check_sendable(src).endswith("/"):
            raise Refused(404, "PathNotFound", "no object has a slash at its end")
        last = dst.rpartition("?")[2]
        if "sig=" in last and re.search(r"sv=\d{4}-\d\d-\d\d", last):
            raise InvalidPath("the SDK takes the end of this name for a SAS", backend=NAME)
        properties = {**put.metadata, **({} if put.write_id is None else {WRITE_ID: put.write_id})}
        wanted: dict[str, Any] = _only_new() if put.create else _matching(put.if_match)
        if etag is not None:
            wanted |= {"source_etag": quoted(etag), "source_match_condition": _conditions().IfNotModified}
        said: dict[str, str] = {}
        with quiet():
            self._files.get_file_client(src).rename_file(
                f"{self._files.file_system_name}/{dst}",
                properties=",".join(
                    f"{name}={b64encode(value.encode()).decode()}" for name, value in properties.items()
                ),
                raw_response_hook=lambda answer: said.update(answer.http_response.headers),
                **wanted,
            )
        lower = {name.lower(): value for name, value in said.items()}
        if not lower.get("etag"):
            raise BackendUnavailable("the store ended the rename with an answer that says nothing", backend=NAME)
        return ObjectInfo(dst[self._client.skip :], etag=_bare(lower["etag"]))


def _check_id(answer: Any) -> None:
    response = answer.http_response
    if response.status_code < 300 and REQUEST_ID not in {name.lower() for name in response.headers}:
        raise unmarked(f"it has no {REQUEST_ID}", NAME)


def _is_no_object(error: Refused) -> bool:
    if error.status == 404:
        return error.code not in ("FilesystemNotFound", "ContainerNotFound")
    # A folder: ``recursive`` is required where the path is one.
    return error.status in (400, 409) and error.code in (
        "MissingRequiredQueryParameter", "InvalidQueryParameterValue", "DirectoryNotEmpty", "ResourceTypeMismatch",
    )  # fmt: skip


def _conditions() -> Any:
    from azure.core import MatchConditions

    return MatchConditions


def _only_new() -> dict[str, Any]:
    return {"match_condition": _conditions().IfMissing}


def _matching(etag: str | None) -> dict[str, Any]:
    return {} if etag is None else {"etag": quoted(etag), "match_condition": _conditions().IfNotModified}
