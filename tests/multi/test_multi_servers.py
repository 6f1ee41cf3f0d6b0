"""One stream to a disk, an S3 and a GCS server at once; a server that goes away; a process that is killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnistorage import (
    BackendUnavailable,
    LocalBackend,
    MultiBackend,
    RecordWriter,
    S3Backend,
    Secret,
    Store,
    Target,
    WriteOptions,
    open_records,
)
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.ops import read_bytes, write_bytes

from ..backends import gcs_places, test_s3
from ..budget import pick
from ..servers import server
from ..servers.proxy import Proxy, Reset
from ..waiting import LIMIT

KILLS = pick(default=5, ci=40, soak=400)
IMPATIENT = RequestPolicy(retries=1, backoff=Backoff(0.001, 0.001))


@pytest.fixture
def places(tmp_path):
    (tmp_path / "disk").mkdir()
    return LocalBackend(tmp_path / "disk"), test_s3.fresh("seaweedfs"), gcs_places.fresh()


def test_one_stream_to_a_disk_s3_and_gcs(places):
    multi = MultiBackend(places)
    assert [place.name for place in multi.places] == ["local", "s3", "gcs"]
    with open_records(multi, "events/x.ndjson.zst", "w") as writer:
        for number in range(50_000):
            writer.write({"number": number, "text": "x" * (number % 100)})
    for place in places:
        with open_records(place, "events/x.ndjson.zst", "r") as reader:
            assert sum(row["number"] for row in reader) == sum(range(50_000))
    assert multi.verify().same == 1
    multi.copy("events/x.ndjson.zst", "y")
    multi.delete("events/x.ndjson.zst")
    assert [[info.path for info in place.list()] for place in places] == [["y"]] * 3
    store = Store(multi)
    assert store.read_bytes("y")[:4] == b"\x28\xb5\x2f\xfd"


@pytest.mark.ci_only
def test_an_upload_of_many_parts_that_one_target_loses_is_whole_at_the_others(places):
    disk, _, gcs = places
    data = random.Random(1).randbytes(20 << 20)
    with Proxy(int(server("seaweedfs")["endpoint"].rpartition(":")[2])) as proxy:
        s3 = test_s3.fresh("seaweedfs", endpoint=proxy.url, policy=IMPATIENT)
        multi = MultiBackend([disk, s3, gcs], "quorum", journal=test_s3.fresh("seaweedfs"))
        for _ in range(50):
            proxy.next(Reset(when="partNumber=2"))
        with multi.open_writer("long", WriteOptions(size=len(data))) as writer:
            for at in range(0, len(data), 1 << 20):
                writer.write(data[at : at + (1 << 20)])
        assert {name: outcome.state for name, outcome in writer.outcomes.items()} == {
            "local": "committed", "s3": "failed", "gcs": "committed",
        }  # fmt: skip
    straight = S3Backend(
        server("seaweedfs")["bucket"], s3._prefix.rstrip("/"), endpoint_url=server("seaweedfs")["endpoint"],
        access_key=server("seaweedfs")["access_key"], secret_key=Secret(server("seaweedfs")["secret_key"], pickle=True),
        vendor="seaweedfs", client="sdk",
    )  # fmt: skip
    assert not straight.exists("long")
    straight.url = s3.url
    multi.places[1].backend = straight
    done = multi.repair()
    assert done.waiting == ()
    assert done.paths == ("long",)
    assert read_bytes(straight, "long") == data
    assert multi.verify().alike


def test_a_server_that_is_away_misses_everything_and_is_brought_up_to_date(tmp_path, places):
    disk, s3, gcs = places
    gone = test_s3.fresh("seaweedfs", endpoint="http://127.0.0.1:9", policy=IMPATIENT)
    journal = tmp_path / "journal"
    journal.mkdir()
    for path in ("kept", "dropped"):
        for place in places:
            write_bytes(place, path, b"old")
    away = MultiBackend([Target("disk", disk), Target("s3", gone), Target("gcs", gcs)], "quorum", journal=journal)
    away.places[1].backend.url = s3.url
    write_bytes(away, "new", b"1" * 100_000)
    write_bytes(away, "kept", b"other")
    away.delete("dropped")
    assert read_bytes(away, "kept") == b"other"
    with pytest.raises(BackendUnavailable):
        write_bytes(MultiBackend([gone, disk]), "x", b"1")
    back = MultiBackend([Target("disk", disk), Target("s3", s3), Target("gcs", gcs)], "quorum", journal=journal)
    assert read_bytes(s3, "kept") == b"old"
    done = back.repair()
    assert (sorted(done.paths), done.waiting) == (["dropped", "kept", "new"], ())
    assert {info.path: read_bytes(s3, info.path) for info in s3.list()} == {"kept": b"other", "new": b"1" * 100_000}
    assert back.verify().alike
    assert list(journal.iterdir()) == []


CHILD = """
import sys
from omnistorage import MultiBackend
from omnistorage.ops import write_bytes
folder, seed = sys.argv[1:]
multi = MultiBackend([f"{folder}/{name}/" for name in "abc"], "quorum", journal=f"{folder}/journal")
print("go", flush=True)
number = 0
while True:
    path = f"x{number % 7}"
    data = f"{seed}.{number}:".encode() + b"x" * (number % 5 * 40_000)
    write_bytes(multi, path, data + b"end")
    print(path, len(data) + 3, f"{seed}.{number}:", flush=True)
    number += 1
"""


def test_goal_34_kill_9_in_the_middle_leaves_what_repair_makes_alike(tmp_path):
    for name in ("a", "b", "c", "journal"):
        (tmp_path / name).mkdir()
    rng = random.Random(34)
    acknowledged = {}

    def life(seed):
        command = [sys.executable, "-c", CHILD, tmp_path, str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "go\n"
            timer = threading.Timer(rng.random() * 0.08, lambda: os.kill(child.pid, signal.SIGKILL))
            timer.start()
            lines = child.stdout.read().split("\n")
            timer.join()
        return [line.split(" ") for line in lines[:-1]]

    multi = MultiBackend([f"{tmp_path}/{name}/" for name in "abc"], "quorum", journal=tmp_path / "journal")
    written = began = seed = 0
    end = time.monotonic() + LIMIT
    while seed < KILLS or (not (began and written > KILLS / 2) and time.monotonic() < end):
        seed += 1
        for path, size, head in life(seed):
            acknowledged[path] = int(size), head.encode()
            written += 1
        began += bool(multi.journal.load())
        done = multi.repair(grace=0)
        assert not done.waiting, f"kill {seed}"
        for path, (size, head) in acknowledged.items():
            held = {(tmp_path / name / path).read_bytes() for name in "abc"}
            (data,) = held
            assert data.endswith(b"end"), f"kill {seed}: torn"
            # What was acknowledged, or what the process died of publishing.
            assert (len(data) == size and data.startswith(head)) or not data.startswith(head), f"kill {seed}"
            assert int(data.split(b".")[0]) >= int(head.split(b".")[0]), f"kill {seed}: older than acknowledged"
    assert written > KILLS / 2
    assert multi.verify().alike
    assert began


def test_many_threads_write_through_one_mirror(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    multi = MultiBackend([f"{tmp_path}/a/", f"{tmp_path}/b/"])

    def write(number):
        write_bytes(multi, f"x{number % 11}", b"%d:" % number * 20_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert multi.verify().same == 11
    assert multi.verify().alike


def test_records_are_encoded_once(tmp_path):
    from omnistorage import MemoryBackend, Ndjson, Zstd

    class Counting(Zstd):
        made = 0

        def encoder(self):
            Counting.made += 1
            return super().encoder()

    with RecordWriter(MultiBackend([MemoryBackend() for _ in range(5)]).open_writer("x"), Ndjson(), Counting()) as out:
        out.write({"a": 1})
    assert Counting.made == 1
