"""Places on Azurite and on the double of a hierarchical account, for the tests of Azure."""

import itertools
import os
import time

from omnistorage.backends.azure import AzureBackend
from omnistorage.core.secret import Secret

from ..servers import server
from ..servers.azure import bare
from ..servers.proxy import Answer

_numbers = itertools.count()
_bare = {}


def fresh(name="azurite", *, endpoint=None, **options):
    """A backend of its own prefix in the container of the server ``name``."""
    info = server(name)
    if name == "dfs":
        options = {"hierarchical": True, "dfs_endpoint_url": info["dfs_endpoint"], **options}
    return AzureBackend(
        info["container"],
        f"t{os.getpid()}-{next(_numbers)}",
        endpoint_url=endpoint or info["endpoint"],
        account_name=info["account_name"],
        **{"account_key": Secret(info["account_key"], pickle=True), "client": "sdk", **options},
    )


def via(proxy, name="azurite"):
    """The endpoint of the server ``name`` behind a proxy."""
    return f"{proxy.url}/{server(name)['account_name']}"


def sdk(name="azurite"):
    if name not in _bare:
        _bare[name] = bare(server(name))
    return _bare[name]


def _name(backend):
    return "dfs" if backend.hierarchical else "azurite"


def peek(backend, path):
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return sdk(_name(backend)).download_blob(backend._prefix + path).readall()
    except ResourceNotFoundError:
        return None


def plant(backend, path, data=b"x", **options):
    sdk(_name(backend)).upload_blob(backend._prefix + path, data, overwrite=True, **options)


def marked(when, status, body=b"", headers=(), **more):
    """An answer of the service, which puts an id on each."""
    return Answer(when, status, body, {"x-ms-request-id": "1", **dict(headers)}, **more)


class Token:
    """A credential as azure-identity has them."""

    def __init__(self, token="canary-token", error=None):
        self.token, self.error, self.asked = token, error, []

    def get_token(self, *scopes, **options):
        from azure.core.credentials import AccessToken

        self.asked.append(scopes)
        if self.error is not None:
            raise self.error
        return AccessToken(self.token, int(time.time()) + 3600)
