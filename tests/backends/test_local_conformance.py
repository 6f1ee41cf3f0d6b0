"""The local backend keeps every promise of the kit, and random calls agree with a dict."""

import os
import shutil
import tempfile

from omnistorage.backends.local import LocalBackend
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick


def make():
    return LocalBackend(tempfile.mkdtemp(prefix="omnistorage-test-"))


def peek(backend, path):
    try:
        with open(os.path.join(backend.root, path), "rb") as file:
            return file.read()
    except OSError:
        return None


def dispose(backend):
    backend.close()
    shutil.rmtree(backend.root, ignore_errors=True)


class TestLocal(BackendTests):
    def make(self):
        return make()

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        target = os.path.join(backend.root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)

    def dispose(self, backend):
        dispose(backend)


TestGoal32Local = backend_machine(make, peek, dispose, steps=pick(default=500, ci=5_000, soak=1_000_000))
