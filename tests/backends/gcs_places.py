"""Where the tests of GCS keep objects: fake-gcs-server, and our double of what Google's store keeps beyond it."""

import atexit
import itertools
import os

import requests  # noqa: F401  here: it changes the filters of warnings, which threads that open stores side by side share

from omnistorage.backends.gcs import GCSBackend

from ..servers import server
from ..servers.gcs import BUCKET, Double

_numbers = itertools.count()
_kept = {}


def double():
    """One double for all tests of this process that need none of their own."""
    if "double" not in _kept:
        _kept["double"] = Double()
        atexit.register(_kept["double"].__exit__)
    return _kept["double"]


def sdk():
    """The SDK's own client of fake-gcs-server: the back door."""
    if "sdk" not in _kept:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {"api_endpoint": server("fake_gcs")["endpoint"]}
        _kept["sdk"] = storage.Client("p", AnonymousCredentials(), client_options=options)
        atexit.register(_kept["sdk"].close)
    return _kept["sdk"]


def fresh(place="fake", *, endpoint=None, **options):
    """A backend of its own prefix: on fake-gcs-server (``"fake"``), on our double, or on a double given."""
    known = server("fake_gcs")["endpoint"] if place == "fake" else (double() if place == "double" else place).url
    vendor = "fake-gcs-server" if place == "fake" else "google"
    prefix = f"t{os.getpid()}-{next(_numbers)}"
    store = GCSBackend(BUCKET, prefix, **{"endpoint_url": endpoint or known, "vendor": vendor, **options})
    store.place = place
    return store


def peek(store, path):
    name = store._prefix + path
    if store.place == "fake":
        blob = sdk().bucket(BUCKET).get_blob(name)
        return None if blob is None else blob.download_as_bytes()
    found = (double() if store.place == "double" else store.place).live(name)
    return None if found is None else found["data"]


def plant(store, path, data=b"x", **told):
    name = store._prefix + path
    if store.place == "fake":
        sdk().bucket(BUCKET).blob(name).upload_from_string(data)
    else:
        (double() if store.place == "double" else store.place).store(name, data, told)
