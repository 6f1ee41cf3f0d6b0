"""S3 against SeaweedFS on loopback: small objects, long streams and listings, against boto3's own best.

Small objects: 16 threads share one client, ours over boto3 and boto3 bare, with the same settings; wall time and CPU
time of this process. Streams: the SDK's managed transfer at its defaults (``upload_fileobj``, ``download_fileobj``),
which moves parts on ten threads. The server shares the machine.
"""

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import MIB, Bench, SameWork, over, rounds, version

from omnistorage.backends.s3 import S3Backend

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import servers
from tests.servers.s3 import bare

FLYING = 16


class Place:
    """A SeaweedFS of one's own, ours and boto3's client of it."""

    def __enter__(self):
        servers.begin()
        self.info = servers.server("seaweedfs")
        self.bucket = self.info["bucket"]
        self.ours, self.through_sdk = (
            S3Backend(
                self.bucket, endpoint_url=self.info["endpoint"], access_key=self.info["access_key"],
                secret_key=self.info["secret_key"], vendor="seaweedfs", client=client,
            )
            for client in ("auto", "sdk")
        )  # fmt: skip
        self.sdk = bare(self.info)
        return self

    def __exit__(self, *exc):
        self.ours.close()
        self.through_sdk.close()
        self.sdk.close()
        servers.end()


def _both(run, count):
    """Seconds and CPU seconds of ``count`` calls on ``FLYING`` threads."""
    with ThreadPoolExecutor(FLYING) as pool:
        cpu = time.process_time()
        list(pool.map(run, range(count)))
        return time.process_time() - cpu


def small(bench: Bench):
    """4 KiB objects written and read, 16 at once."""
    count = 64 if bench.quick else 2000
    data = os.urandom(4096)
    with Place() as place:

        def put_ours(number):
            with place.through_sdk.open_writer(f"small/{number}") as writer:
                writer.write(data)

        def put_sdk(number):
            place.sdk.put_object(Bucket=place.bucket, Key=f"small/{number}", Body=data)

        def get_ours(number):
            with place.through_sdk.open_reader(f"small/{number}") as reader:
                assert reader.read(-1) == data

        def get_sdk(number):
            assert place.sdk.get_object(Bucket=place.bucket, Key=f"small/{number}")["Body"].read() == data

        for verb, ours, sdk in (("put", put_ours, put_sdk), ("get", get_ours, get_sdk)):
            _both(ours, FLYING)
            _both(sdk, FLYING)
            cpu = {"ours": [], "sdk": []}
            times = rounds(
                {"ours": lambda run=ours: _both(run, count), "sdk": lambda run=sdk: _both(run, count)},
                bench.rounds,
                lambda name, value, cpu=cpu: cpu[name].append(value),
            )
            engine = version("boto3")
            bench.add(
                f"s3_{verb}_4k", f"S3 {verb} of 4 KiB objects, {FLYING} in flight", peer="boto3 with the same settings",
                bar=0.9, better="higher", samples=over(times["sdk"], times["ours"]), engine=engine,
            )  # fmt: skip
            bench.add(
                f"s3_{verb}_4k_cpu", f"S3 {verb} of 4 KiB objects: CPU time of the client",
                peer="boto3 with the same settings", bar=1.15, better="lower", samples=over(cpu["ours"], cpu["sdk"]),
                engine=engine,
            )  # fmt: skip


def small_obstore(bench: Bench):
    """The same through obstore, which is what a custom endpoint gets where it is installed."""
    import obstore
    from obstore.store import S3Store
    from pyarrow.fs import S3FileSystem

    count = 64 if bench.quick else 2000
    data = os.urandom(4096)
    with Place() as place:
        info = place.info
        assert "Obstore" in type(place.ours.client).__name__
        bare_store = S3Store(
            place.bucket, endpoint=info["endpoint"], access_key_id=info["access_key"],
            secret_access_key=info["secret_key"], region="us-east-1", virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )  # fmt: skip
        arrow = S3FileSystem(
            access_key=info["access_key"], secret_key=info["secret_key"], region="us-east-1",
            endpoint_override=info["endpoint"].removeprefix("http://"), scheme="http",
        )  # fmt: skip

        def put_ours(number):
            with place.ours.open_writer(f"small/{number}") as writer:
                writer.write(data)

        def get_ours(number):
            with place.ours.open_reader(f"small/{number}") as reader:
                assert reader.read(-1) == data

        def put_arrow(number):
            with arrow.open_output_stream(f"{place.bucket}/small/{number}") as sink:
                sink.write(data)

        def get_arrow(number):
            with arrow.open_input_stream(f"{place.bucket}/small/{number}") as source:
                assert source.read() == data

        runs = {
            "put": {
                "ours": put_ours,
                "obstore": lambda n: obstore.put(bare_store, f"small/{n}", data, use_multipart=False),
                "boto3": lambda n: place.sdk.put_object(Bucket=place.bucket, Key=f"small/{n}", Body=data),
                "pyarrow": put_arrow,
            },
            "get": {
                "ours": get_ours,
                "obstore": lambda n: bytes(obstore.get(bare_store, f"small/{n}").bytes()),
                "boto3": lambda n: place.sdk.get_object(Bucket=place.bucket, Key=f"small/{n}")["Body"].read(),
                "pyarrow": get_arrow,
            },
        }
        for verb, peers in runs.items():
            for run in peers.values():
                _both(run, FLYING)
            cpu = {name: [] for name in peers}
            times = rounds(
                {name: lambda run=run: _both(run, count) for name, run in peers.items()},
                bench.rounds,
                lambda name, value, cpu=cpu: cpu[name].append(value),
            )
            for peer, bar in (("obstore", 0.85), ("boto3", 2.5), ("pyarrow", 1.0)):
                bench.add(
                    f"s3_obstore_{verb}_4k_{peer}", f"S3 through obstore, {verb} of 4 KiB objects, {FLYING} in flight",
                    peer=version(peer), bar=bar, better="higher", samples=over(times[peer], times["ours"]),
                    engine=version("obstore"),
                )  # fmt: skip
            bench.add(
                f"s3_obstore_{verb}_4k_cpu", f"S3 through obstore, {verb} of 4 KiB objects: CPU time of the client",
                peer=version("boto3"), bar=0.4, better="lower", samples=over(cpu["ours"], cpu["boto3"]),
                engine=version("obstore"),
            )  # fmt: skip


S3FS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import s3fs
endpoint, access, secret, bucket, count, rounds, flying = sys.argv[1:]
store = s3fs.S3FileSystem(key=access, secret=secret, endpoint_url=endpoint, use_listings_cache=False)
data = bytes(range(256)) * 16
def put(number): store.pipe_file(f"{bucket}/s3fs/{number}", data)
def get(number): assert store.cat_file(f"{bucket}/s3fs/{number}") == data
with ThreadPoolExecutor(int(flying)) as pool:
    for call in (put, get):
        list(pool.map(call, range(16)))
    for _ in range(int(rounds)):
        for call in (put, get):
            start = time.perf_counter()
            list(pool.map(call, range(int(count))))
            print(call.__name__, time.perf_counter() - start, flush=True)
"""


def small_s3fs(bench: Bench):
    """The same against s3fs, which pins another botocore and so lives in an environment of its own, in turns."""
    count = 64 if bench.quick else 2000
    python = Path(__file__).resolve().parent.parent / ".servers" / "s3fs" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "s3fs"], check=True)
    shown = subprocess.run(
        [python, "-c", "import s3fs; print('s3fs', s3fs.__version__)"], check=True, capture_output=True, text=True
    )
    data = bytes(range(256)) * 16
    with Place() as place:
        info = place.info

        def put(number):
            with place.ours.open_writer(f"small/{number}") as writer:
                writer.write(data)

        def get(number):
            with place.ours.open_reader(f"small/{number}") as reader:
                assert reader.read(-1) == data

        samples = {"put": [], "get": []}
        for _ in range(bench.rounds):
            ours = {}
            for verb, run in (("put", put), ("get", get)):
                _both(run, FLYING)
                start = time.perf_counter()
                _both(run, count)
                ours[verb] = time.perf_counter() - start
            told = subprocess.run(
                [python, "-c", S3FS, info["endpoint"], info["access_key"], info["secret_key"], info["bucket"],
                 str(count), "1", str(FLYING)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            for line in told.stdout.splitlines():
                verb, seconds = line.split()
                samples[verb].append(float(seconds) / ours[verb])
        for verb, ratios in samples.items():
            bench.add(
                f"s3_{verb}_4k_s3fs", f"S3 through obstore, {verb} of 4 KiB objects, {FLYING} in flight",
                peer=shown.stdout.strip(), bar=1.0, better="higher", samples=ratios, engine=version("obstore"),
            )  # fmt: skip


class _Null(io.RawIOBase):
    """Seekable, as the SDK writes parts in any order then; into a sink that is not it never ends at 256 MiB."""

    def __init__(self):
        self.size = 0

    def writable(self):
        return True

    def seekable(self):
        return True

    def seek(self, at, whence=0):
        return at

    def write(self, data):
        self.size += len(data)
        return len(data)


def streams(bench: Bench):
    """256 MiB up and down."""
    size = (32 if bench.quick else 256) * MIB
    block = os.urandom(MIB)

    class Source(io.RawIOBase):
        def __init__(self):
            self.left = size

        def readable(self):
            return True

        def read(self, wanted=-1):
            take = self.left if wanted < 0 else min(self.left, wanted)
            self.left -= take
            return (block * (take // MIB + 1))[:take]

    with Place() as place:

        def up_ours():
            with place.ours.open_writer("stream") as writer:
                for _ in range(size // MIB):
                    writer.write(block)
            return place.ours.stat("stream").size

        def up_sdk():
            place.sdk.upload_fileobj(Source(), place.bucket, "stream")
            return place.ours.stat("stream").size

        def down_ours():
            got = 0
            with place.ours.open_reader("stream") as reader:
                while data := reader.read(MIB):
                    got += len(data)
            return got

        def down_sdk():
            sink = _Null()
            place.sdk.download_fileobj(place.bucket, "stream", sink)
            return sink.size

        for verb, ours, sdk in (("up", up_ours, up_sdk), ("down", down_ours, down_sdk)):
            same = SameWork()
            times = rounds({"ours": ours, "sdk": sdk}, bench.rounds, lambda name, value, same=same: same.check(value))
            bench.add(
                f"s3_stream_{verb}", f"S3: one object of {size // MIB} MiB {verb}", peer="boto3's managed transfer",
                bar=1.0, better="higher", samples=over(times["sdk"], times["ours"]), engine=version("boto3"),
            )  # fmt: skip


def listing(bench: Bench):
    """A listing of many keys."""
    count = 2000 if bench.quick else 20_000
    with Place() as place:
        with ThreadPoolExecutor(FLYING) as pool:
            list(pool.map(
                lambda n: place.sdk.put_object(Bucket=place.bucket, Key=f"list/{n % 50:02}/{n}", Body=b""), range(count)
            ))  # fmt: skip

        def ours():
            return sum(1 for _ in place.ours.list("list"))

        def sdk():
            pages = place.sdk.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix="list/")
            return sum(len(page.get("Contents", ())) for page in pages)

        same = SameWork()
        times = rounds({"ours": ours, "sdk": sdk}, bench.rounds, lambda name, value: same.check(value))
        bench.add(
            "s3_list", f"S3: list of {count:,} keys in 50 folders", peer="boto3's paginator", bar=0.9, better="higher",
            samples=over(times["sdk"], times["ours"]), engine=version("boto3"),
        )  # fmt: skip


CHILD = """
import re, sys
from pathlib import Path
from omnistorage.backends.s3 import S3Backend
verb, size, endpoint, bucket, access, secret = sys.argv[1:]
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
store = S3Backend(bucket, endpoint_url=endpoint, access_key=access, secret_key=secret, vendor="seaweedfs")
store.check_health()
block, before = bytes(range(256)) * 4096, peak()
if verb == "up":
    with store.open_writer("memory") as writer:
        for _ in range(int(size)):
            writer.write(block)
else:
    with store.open_reader("memory") as reader:
        while reader.read(1 << 20):
            pass
print(f"{(peak() - before) / 1024:.1f}")
"""


def memory(bench: Bench):
    """Peak memory of a stream up and down, beyond a client that has made a request."""
    size = 64 if bench.quick else 256
    with Place() as place:
        info = place.info
        for verb in ("up", "down"):
            command = [sys.executable, "-c", CHILD, verb, str(size), info["endpoint"], info["bucket"]]
            command += [info["access_key"], info["secret_key"]]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            bench.add(
                f"s3_memory_{verb}", f"peak memory: S3, one object of {size} MiB {verb}",
                peer="32 MiB of parts + 32 MiB", bar=64, better="lower", unit="MiB", samples=[float(done.stdout)],
                engine=version("boto3"),
            )  # fmt: skip


GROUPS = {
    "s3_memory": memory,
    "s3_small": small,
    "s3_obstore": small_obstore,
    "s3_s3fs": small_s3fs,
    "s3_streams": streams,
    "s3_list": listing,
}
