"""Goal 8 on the backends that have servers: an exception, the garbage collector or a kill in the middle of a long
write, through every codec and format, leaves no object and no upload.

By default each backend meets each end once or twice, with codecs and formats in turn. In CI each pair of values of two
dimensions meets. The soaks run all cells.
"""

import base64
import gc
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from datetime import timedelta

import pytest

from omnistorage import open_records
from omnistorage.core import StaleUploads, power

from ..budget import pick
from ..records.test_matrix import FORMAT, SUFFIX, pairwise, settle
from . import azure_places, gcs_places, http_places, test_s3, test_sftp_conformance
from .sql_places import Place

BACKENDS = {
    "azure": lambda: azure_places.fresh(part_size=256 * 1024),
    "gcs": lambda: gcs_places.fresh("fake", part_size=256 * 1024),
    "http": lambda: http_places.on_disk("wsgidav", "", dav=True),
    "mysql": lambda: Place("mariadb").make(),
    "postgresql": lambda: Place("postgres").make(),
    "s3": lambda: test_s3.fresh("seaweedfs", part_size=5 << 20),
    "sftp": lambda: test_sftp_conformance.make("asyncssh"),
}
ENDS = ["exception", "collected", "kill"]
DIMENSIONS = [list(BACKENDS), list(SUFFIX), list(FORMAT), ENDS]
QUICK = ["none", "gzip", "zstd"]
KILLED_BY_DEFAULT = ("http", "postgresql", "s3")
"""One with temporary objects, one with rows and one with parts: each kill costs a process that imports all it needs."""


def few():
    """By default: each backend with an exception and the collector, and some with a kill."""
    codecs, forms = itertools.cycle(QUICK), itertools.cycle(FORMAT)
    for backend, how in itertools.product(BACKENDS, ENDS):
        if how != "kill" or backend in KILLED_BY_DEFAULT:
            yield backend, next(codecs), next(forms), how


CELLS = pick(
    default=lambda: list(few()), ci=lambda: pairwise(DIMENSIONS), soak=lambda: list(itertools.product(*DIMENSIONS))
)()
TEXT = base64.b64encode(random.Random(8).randbytes(48 * 1024)).decode()


def rows(form, backend):
    """More than a part, however it is compressed; no two alike."""
    for number in range(130 if backend == "s3" else 12):
        text = f"{number}{TEXT[number:]}{TEXT[:number]}"
        yield text.encode() if form in ("lines", "length_prefixed") else {"n": number, "text": text}


def test_there_are_enough_cells():
    assert len(list(itertools.product(*DIMENSIONS))) >= 500


KILLED = """
import pickle, sys
from omnistorage import open_records
store, paths, rows = pickle.loads(sys.stdin.buffer.read(int(sys.argv[1])))
writers = [open_records(store, path, "w") for path in paths]
for writer in writers:
    writer.write_many(rows)
    writer.flush()
print("ready", flush=True)
sys.stdin.read()
"""


def killed(store, paths, found):
    """Write under all ``paths`` in a child, and kill it."""
    told = pickle.dumps((store, paths, found))
    command = [sys.executable, "-c", KILLED, str(len(told))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(told)
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("backend", "codec", "form", "how"), CELLS)
def test_goal_8_no_end_of_a_long_write_leaves_anything_at_the_server(backend, codec, form, how):
    store = BACKENDS[backend]()
    kept, new = f"kept{FORMAT[form]}{SUFFIX[codec]}", f"new/x{FORMAT[form]}{SUFFIX[codec]}"
    found = list(rows(form, backend))
    with open_records(store, kept, "w") as writer:
        writer.write(found[0])
    before = [(info.path, info.size, info.etag) for info in store.list()]
    assert len(before) == 1
    if how == "kill":
        killed(store, (kept, new), found)
    for path in (kept, new) if how != "kill" else ():
        if how == "exception":
            with pytest.raises(KeyError), open_records(store, path, "w") as writer:
                writer.write_many(found)
                raise KeyError
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                writer = open_records(store, path, "w")
                writer.write_many(found)
                writer.flush()
                del writer
                gc.collect()
                settle()
        assert [(info.path, info.size, info.etag) for info in store.list()] == before
    assert [(info.path, info.size, info.etag) for info in store.list()] == before
    stale = power(store, StaleUploads)
    if stale is not None:
        left = list(stale.stale_uploads(older_than=timedelta(seconds=-1)))
        assert how == "kill" or left == []
        assert stale.remove_stale_uploads(older_than=timedelta(seconds=-1)) == len(left)
        assert list(stale.stale_uploads(older_than=timedelta(seconds=-1))) == []
    if backend == "s3":
        client = test_s3.sdk("seaweedfs")
        assert not client.list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads")
    with open_records(store, kept) as reader:
        assert len(list(reader)) == 1
    store.close()
