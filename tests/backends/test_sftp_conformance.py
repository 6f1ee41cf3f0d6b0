"""The SFTP backend keeps the promises of the kit on asyncssh's and OpenSSH's server; random calls agree with a dict."""

import shutil

import pytest

from omnistorage.backends.sftp import SFTPBackend
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.ssh import on_disk, options_of


def make(name, **options):
    info = server(name)
    backend = SFTPBackend(**options_of(info, **options))
    backend.disk = on_disk(info, backend._options["root"])
    return backend


def peek(backend, path):
    try:
        return (backend.disk / path).read_bytes()
    except OSError:
        return None


def dispose(backend):
    backend.close()
    shutil.rmtree(backend.disk)


class SftpTests(BackendTests):
    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        target = backend.disk / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def dispose(self, backend):
        dispose(backend)


class TestSftpOnAsyncssh(SftpTests):
    def make(self):
        return make("asyncssh")


@pytest.mark.ci_only
class TestSftpOnSshd(SftpTests):
    def make(self):
        return make("sshd", server_copy=True)


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32Sftp = backend_machine(lambda: make("asyncssh"), peek, dispose, steps=STEPS, length=LENGTH)
TestGoal32SftpOnSshd = pytest.mark.ci_only(
    backend_machine(lambda: make("sshd", server_copy=True), peek, dispose, steps=STEPS, length=LENGTH)
)
