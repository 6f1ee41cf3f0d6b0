"""Goal 40 over SFTP: no path leads out of the root, whatever stands in the way. The payloads are the local ones."""

import shutil

import pytest

from omnistorage.backends.sftp import SFTPBackend
from omnistorage.core import WriteOptions
from omnistorage.errors import StorageError
from omnistorage.wrappers import Prefix

from ..budget import pick
from ..servers import server
from ..servers.ssh import on_disk, options_of
from .test_local_paths import METHODS, SECRET, outside, payloads, plant, put, read

OVER_SFTP = {**METHODS, "create": lambda b, p: put(b.open_writer(p, WriteOptions(overwrite=False)))}
del OVER_SFTP["open_appender"]
IN_FULL = ("open_reader", "open_writer")
"""Methods that try every payload in CI. All methods share the way from a path to a file."""
WAYS_OUT = ["out/secret", "up/secret", "abs/secret", "chain/secret", "d/up2/secret", "d/leaf", "leaf", "out", "up"]


@pytest.fixture(params=["sshd", "asyncssh", "sshd prefix"])
def place(request):
    """The server, a backend whose root lies among secrets, the folder around it, and the root on this machine."""
    name, _, prefix = request.param.partition(" ")
    info = server(name)
    given = options_of(info, server_copy=True, connections=1)
    base = on_disk(info, given["root"])
    root = plant(base)
    if prefix:
        backend = Prefix(SFTPBackend(**given), "root")
    else:
        backend = SFTPBackend(**{**given, "root": given["root"] + "/root"})
    yield backend, base, root
    backend.close()
    shutil.rmtree(base)


@pytest.mark.parametrize("method", OVER_SFTP)
def test_goal_40_no_payload_escapes_and_only_our_errors_come_out(place, method):
    backend, base, root = place
    before = outside(base)
    step = pick(default=16, ci=1 if method in IN_FULL else 4, soak=1)  # and each method begins with another one
    hostile = [*WAYS_OUT, *payloads()[list(OVER_SFTP).index(method) % step :: step]]
    assert len(hostile) >= 600 // step
    refused = 0
    for path in hostile:
        try:
            result = OVER_SFTP[method](backend, path)
        except StorageError:
            refused += 1
        else:
            assert not (isinstance(result, bytes) and SECRET in result), path
        if not (root / "file").exists():
            (root / "file").write_bytes(b"inside")
        (root / "d").mkdir(exist_ok=True)
    for info in backend.list():
        if info.kind == "file":
            assert SECRET not in read(backend, info.path), info.path
    assert outside(base) == before
    assert method in ("exists", "start_after") or refused > len(hostile) // 8
