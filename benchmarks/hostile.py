"""What hostile input costs until it is refused: listings, filters, headers, templates; and the memory that it takes.

With a name of ``CASES`` as its argument it is the child that measures memory, and prints the MiB of peak memory beyond
what is imported. Linux only: it asks ``/proc/self/status`` for VmHWM.
"""

import itertools
import re
import subprocess
import sys
import time
import zlib
from pathlib import Path

from common import MIB, Bench

from omnistorage import MemoryBackend, StorageError, Store, open_records
from omnistorage.backends.http.listing_parsers import MAX_PAGE, index_page, multistatus, sitemap
from omnistorage.backends.http.manifests import manifest
from omnistorage.backends.http.urls import Root
from omnistorage.backends.sftp import paths as sftp_tree
from omnistorage.backends.sftp.protocol import EOF, Answer, Attrs, Slot, Status, string
from omnistorage.delivery.template import Template
from omnistorage.sync import Filter

ROOT = Root("http", "h", 80, "/")
PIECE = 64 * 1024


def body(start, unit, size=16 * MIB):
    """``start``, and ``unit`` again and again."""
    yield start
    piece = unit * (PIECE // len(unit))
    for _ in range(size // len(piece)):
        yield piece


def page(kind):
    return lambda pieces: index_page(pieces, kind, ROOT, "", "http://h/")


def listed(read):
    return lambda pieces: list(read(pieces))


HTML, JSON, DAV = b"<h1>Index of /</h1>", b"[", b'<r:multistatus xmlns:r="DAV:">'
BODIES = {
    "links": (page("text/html"), HTML, b"<a href=b>"),
    "end tags": (page("text/html"), HTML, b"</a>"),
    "comments": (page("text/html"), HTML, b"<!---->"),
    "attributes": (page("text/html"), HTML, b"<a "),
    "JSON index of nothing": (page("application/json"), JSON, b"{},"),
    "JSON index of one entry": (page("application/json"), b'[{"name":"x","more":[', b"{},"),
    "JSON manifest": (listed(lambda pieces: manifest(pieces, 8 << 30)), JSON, b"{},"),
    "JSON manifest of one entry": (listed(lambda pieces: manifest(pieces, 8 << 30)), b'[{"path":"x","more":[', b"{},"),
    "NDJSON manifest of one line": (listed(lambda pieces: manifest(pieces, 8 << 30)), b'{"path":"x","more":[', b"{},"),
    "PROPFIND of nothing": (listed(multistatus), DAV, b"<r:x/>"),
    "PROPFIND without names": (listed(multistatus), DAV, b"<r:response><r:x/></r:response>"),
    "sitemap of nothing": (listed(lambda pieces: sitemap(pieces, 50 * MIB)), b"<urlset>", b"<x/>"),
}
FILTERS = (
    ("- " + "{,}" * 60 + "b", "a"),
    ("- **/" + "**/" * 10 + "x", "a/" * 60 + "a"),
    ("- {a*,*a}" + "{a*,*a}" * 11 + "b", "a" * 40),
    ("+ *{a,b}*{a,b}*{a,b}*{a,b}*{a,b}*c", "ab" * 60),
)
TEMPLATES = ("{seq:0999999999d}.x", "{seq:>99999999999}.x", "{time:%999999999Y}{seq}", "{seq:" + "9" * 100_000 + "}")


def refused(call, *arguments):
    """Milliseconds until ``call`` refuses its arguments with an error of ours."""
    began = time.perf_counter()
    try:
        call(*arguments)
    except StorageError:
        return (time.perf_counter() - began) * 1000
    raise SystemExit("taken, and not refused")


def slowest(bench, name, what, calls):
    samples = [max(call() for call in calls) for _ in range(bench.rounds)]
    bench.add(name, what, peer="50 ms", bar=50, better="lower", unit="ms", samples=samples, engine="")


def listings(bench: Bench):
    """The slowest of twelve bodies of 16 MiB that list nothing, until it is refused."""

    def calls(read, start, unit):
        return lambda: refused(read, body(start, unit))

    slowest(bench, "hostile_listings", "the slowest hostile listing", [calls(*row) for row in BODIES.values()])


def rules(bench: Bench):
    """The slowest of four filters and a glob of a store that backtracking would not finish with."""
    store = MemoryBackend()
    with store.open_writer("t/a") as writer:
        writer.write(b"1")

    def filtered(rule, path):
        began = time.perf_counter()
        Filter.parse([rule]).includes(path)
        return (time.perf_counter() - began) * 1000

    def globbed():
        began = time.perf_counter()
        list(Store(store, "t", owns=False).glob("{,}" * 40 + "b"))
        return (time.perf_counter() - began) * 1000

    calls = [lambda row=row: filtered(*row) for row in FILTERS]
    slowest(bench, "hostile_filters", "the slowest hostile filter", [*calls, globbed])


def headers(bench: Bench):
    """A CSV header of 16,000 columns, and one of 32,000, which ``untrusted`` refuses."""
    store = MemoryBackend()
    for count in (16_000, 32_000):
        with store.open_writer(f"{count}.csv") as writer:
            writer.write(b",".join(b"c%d" % number for number in range(count)) + b"\n")

    def read(count):
        with open_records(store, f"{count}.csv", untrusted=True) as reader:
            list(reader)

    def taken():
        began = time.perf_counter()
        read(16_000)
        return (time.perf_counter() - began) * 1000

    slowest(bench, "hostile_headers", "the slowest hostile CSV header", [taken, lambda: refused(read, 32_000)])


def templates(bench: Bench):
    """The slowest of four templates with a width that no name has."""
    calls = [lambda text=text: refused(Template, text) for text in TEMPLATES]
    slowest(bench, "hostile_templates", "the slowest hostile template", calls)


# -- memory ------------------------------------------------------------------------------------------------------------


class Folder:
    """A session with an SFTP server whose folder has 200,000 names."""

    def __init__(self):
        self.asked, self.closing = 0, []

    def call(self, *args, want=None):
        return Answer(memoryview(string(b"handle")))

    def send(self, *args):
        return Slot()

    def answer(self, slot, want):
        if self.asked >= 2000:
            raise Status(EOF, "end")
        self.asked += 1
        rows = [string(b"%09d" % (self.asked * 100 + n)) for n in range(100)]
        attrs = string(b"") + Attrs(size=1, mode=0o100644, atime=1, mtime=self.asked).packed()
        return Answer(memoryview(len(rows).to_bytes(4, "big") + b"".join(row + attrs for row in rows)))


def folder():
    for _ in sftp_tree.in_order(sftp_tree.read_folder(Folder(), b"/")):
        pass


def full_page():
    """An index page as full of entries as it may be."""
    rows = (b'{"name":"%060d","type":"file","size":1},' % number for number in itertools.count())
    index_page(itertools.islice(itertools.chain((JSON,), rows), MAX_PAGE // 88), "application/json", ROOT, "", "")


def wide_record():
    """One line of 15.6 MB in 15 kB of gzip, which would be 441 MiB of objects."""
    packer, store = zlib.compressobj(9, zlib.DEFLATED, 31), MemoryBackend()
    with store.open_writer("a.ndjson.gz") as writer:
        writer.write(packer.compress(b"[" + b"{}," * 5_200_000 + b"{}]\n") + packer.flush())
    return lambda: list(open_records(store, "a.ndjson.gz", untrusted=True))


CASES = {"SFTP folder": lambda: folder, "full page": lambda: full_page, "wide record": wide_record}
CASES |= {name: lambda row=row: lambda: row[0](body(*row[1:])) for name, row in BODIES.items()}


def memory(bench: Bench):
    """The most memory that a hostile listing or record takes: the twelve bodies, a long SFTP folder, a full page."""
    most = 0.0
    for name in CASES:
        done = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        most = max(most, float(done.stdout))
    bench.add(
        "hostile_memory", "peak memory: the worst hostile listing or record", peer="over imports", bar=32,
        better="lower", unit="MiB", samples=[most], engine="",
    )  # fmt: skip


def peak():
    """The most memory this process has had, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


GROUPS = {"listings": listings, "rules": rules, "headers": headers, "templates": templates, "hostile_memory": memory}

if __name__ == "__main__":
    case = CASES[sys.argv[1]]()
    import omnistorage.compression.gzip
    import omnistorage.formats.ndjson  # noqa: F401

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    try:
        case()
    except StorageError:
        pass
    print(f"{(peak() - before) / 1024:.1f}")
