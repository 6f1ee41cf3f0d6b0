"""The SFTP backend and every promise of the kit on OpenSSH's and asyncssh's server, random calls against a dict."""

import shutil

import pytest

from omnistorage.backends.sftp import SFTPBackend
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.ssh import on_disk, options_of

HAS_SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is not None


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


class TestSftpOnSshd(BackendTests):
    def make(self):
        return make("sshd", server_copy=True)

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        target = backend.disk / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def dispose(self, backend):
        dispose(backend)


class TestSftpOnAsyncssh(TestSftpOnSshd):
    pytestmark = [pytest.mark.ci_only] if HAS_SSHD else []

    def make(self):
        return make("asyncssh")


TestGoal32Sftp = backend_machine(
    lambda: make("sshd" if HAS_SSHD else "asyncssh", server_copy=HAS_SSHD),
    peek,
    dispose,
    steps=pick(default=100, ci=2_000, soak=50_000),
)
