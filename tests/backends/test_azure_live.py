"""The kit against real accounts, where somebody gives one: nothing is collected here unless a URL is set.

``OMNISTORAGE_TEST_AZURE_URL=az://container/prefix?account_name=...`` for a flat account, ``_HNS_URL`` for a
hierarchical one; credentials as in any URL, or by DefaultAzureCredential. Each test works below a prefix of its own.
"""

import os
import uuid

from omnistorage import open_backend
from omnistorage.backends.azure import AzureBackend
from omnistorage.errors import NotFound
from omnistorage.testing import BackendTests


def live(url, **options):
    with open_backend(url) as root:
        given = {**root._options, **options}
    return AzureBackend(**{**given, "prefix": f"{given['prefix']}/{uuid.uuid4().hex}".strip("/")})


class LiveTests(BackendTests):
    url = ""
    options = {}

    def make(self):
        return live(self.url, **self.options)

    def blob(self, backend, path):
        return backend._azure.clients.container.get_blob_client(backend._prefix + path)

    def peek(self, backend, path):
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self.blob(backend, path).download_blob().readall()
        except ResourceNotFoundError:
            return None

    def plant(self, backend, path, data):
        self.blob(backend, path).upload_blob(data, overwrite=True)

    def dispose(self, backend):
        backend.close()
        with AzureBackend(**{**backend._options, "prefix": ""}) as root:
            try:
                root.purge(backend._prefix.rstrip("/"))
            except NotFound:
                pass


if os.environ.get("OMNISTORAGE_TEST_AZURE_URL"):
    TestLiveFlat = type("TestLiveFlat", (LiveTests,), {"url": os.environ["OMNISTORAGE_TEST_AZURE_URL"]})

if os.environ.get("OMNISTORAGE_TEST_AZURE_HNS_URL"):
    TestLiveHierarchical = type(
        "TestLiveHierarchical",
        (LiveTests,),
        {"url": os.environ["OMNISTORAGE_TEST_AZURE_HNS_URL"], "options": {"hierarchical": True}},
    )
