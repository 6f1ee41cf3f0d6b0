"""Azure against Azurite on loopback: small objects and long streams, against the SDK's own best.

Small objects: 16 threads share one client, ours and the SDK's bare one. Streams: the SDK's managed transfer at its
defaults (``upload_blob`` of a stream, ``download_blob().readinto``). The server shares the machine, and is one process
of JavaScript: what is compared is the two clients, not what Azure can do. (Not ``azure.py``: the folder of a script is
searched first, and there is a package of that name.)
"""

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import MIB, Bench, SameWork, over, rounds, version

from omnistorage.backends.azure import AzureBackend

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import servers
from tests.servers.azure import bare

FLYING = 16


class Place:
    """An Azurite of one's own, ours and the SDK's client of it."""

    def __enter__(self):
        servers.begin()
        self.info = servers.server("azurite")
        self.ours, self.through_sdk = (
            AzureBackend(
                self.info["container"], endpoint_url=self.info["endpoint"], account_name=self.info["account_name"],
                account_key=self.info["account_key"], client=client,
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
    """CPU seconds of ``count`` calls on ``FLYING`` threads."""
    with ThreadPoolExecutor(FLYING) as pool:
        cpu = time.process_time()
        list(pool.map(run, range(count)))
        return time.process_time() - cpu


def small(bench: Bench):
    """4 KiB objects written and read through the SDK, 16 at once."""
    count = 64 if bench.quick else 2000
    data = os.urandom(4096)
    with Place() as place:

        def put_ours(number):
            with place.through_sdk.open_writer(f"small/{number}") as writer:
                writer.write(data)

        def put_sdk(number):
            place.sdk.upload_blob(f"small/{number}", data, overwrite=True)

        def get_ours(number):
            with place.through_sdk.open_reader(f"small/{number}") as reader:
                assert reader.read(-1) == data

        def get_sdk(number):
            assert place.sdk.download_blob(f"small/{number}").readall() == data

        for verb, ours, sdk in (("put", put_ours, put_sdk), ("get", get_ours, get_sdk)):
            _both(ours, FLYING)
            _both(sdk, FLYING)
            cpu = {"ours": [], "sdk": []}
            times = rounds(
                {"ours": lambda run=ours: _both(run, count), "sdk": lambda run=sdk: _both(run, count)},
                bench.rounds,
                lambda name, value, cpu=cpu: cpu[name].append(value),
            )
            engine = version("azure-storage-blob")
            bench.add(
                f"azure_{verb}_4k", f"Azure {verb} of 4 KiB objects, {FLYING} in flight", peer="azure-storage-blob",
                bar=0.9, better="higher", samples=over(times["sdk"], times["ours"]), engine=engine,
            )  # fmt: skip
            bench.add(
                f"azure_{verb}_4k_cpu", f"Azure {verb} of 4 KiB objects: CPU time of the client",
                peer="azure-storage-blob", bar=1.15, better="lower", samples=over(cpu["ours"], cpu["sdk"]),
                engine=engine,
            )  # fmt: skip


def small_obstore(bench: Bench):
    """The same through obstore, which is what a custom endpoint gets where it is installed."""
    import obstore
    from obstore.store import AzureStore

    count = 64 if bench.quick else 2000
    data = os.urandom(4096)
    with Place() as place:
        info = place.info
        assert "Obstore" in type(place.ours.client).__name__
        bare_store = AzureStore(
            info["container"], endpoint=info["endpoint"], account_name=info["account_name"],
            account_key=info["account_key"], client_options={"allow_http": True},
        )  # fmt: skip

        def put_ours(number):
            with place.ours.open_writer(f"small/{number}") as writer:
                writer.write(data)

        def get_ours(number):
            with place.ours.open_reader(f"small/{number}") as reader:
                assert reader.read(-1) == data

        runs = {
            "put": {
                "ours": put_ours,
                "obstore": lambda n: obstore.put(bare_store, f"small/{n}", data, use_multipart=False),
                "azure-storage-blob": lambda n: place.sdk.upload_blob(f"small/{n}", data, overwrite=True),
            },
            "get": {
                "ours": get_ours,
                "obstore": lambda n: bytes(obstore.get(bare_store, f"small/{n}").bytes()),
                "azure-storage-blob": lambda n: place.sdk.download_blob(f"small/{n}").readall(),
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
            for peer, bar in (("obstore", 0.85), ("azure-storage-blob", 1.0)):
                bench.add(
                    f"azure_obstore_{verb}_4k_{peer}",
                    f"Azure through obstore, {verb} of 4 KiB objects, {FLYING} in flight", peer=version(peer), bar=bar,
                    better="higher", samples=over(times[peer], times["ours"]), engine=version("obstore"),
                )  # fmt: skip
            bench.add(
                f"azure_obstore_{verb}_4k_cpu",
                f"Azure through obstore, {verb} of 4 KiB objects: CPU time of the client",
                peer=version("azure-storage-blob"), bar=0.4, better="lower",
                samples=over(cpu["ours"], cpu["azure-storage-blob"]), engine=version("obstore"),
            )  # fmt: skip


class _Null(io.RawIOBase):
    def __init__(self):
        self.size = 0

    def writable(self):
        return True

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
            place.sdk.upload_blob("stream", Source(), overwrite=True)
            return place.ours.stat("stream").size

        def down_ours():
            got = 0
            with place.ours.open_reader("stream") as reader:
                while data := reader.read(MIB):
                    got += len(data)
            return got

        def down_sdk():
            sink = _Null()
            place.sdk.download_blob("stream").readinto(sink)
            return sink.size

        for verb, ours, sdk in (("up", up_ours, up_sdk), ("down", down_ours, down_sdk)):
            same = SameWork()
            times = rounds({"ours": ours, "sdk": sdk}, bench.rounds, lambda name, value, same=same: same.check(value))
            bench.add(
                f"azure_stream_{verb}", f"Azure: one object of {size // MIB} MiB {verb}",
                peer="the SDK's managed transfer", bar=1.0, better="higher", samples=over(times["sdk"], times["ours"]),
                engine=version("azure-storage-blob"),
            )  # fmt: skip


def listing(bench: Bench):
    """A listing of many keys."""
    count = 1000 if bench.quick else 10_000
    with Place() as place:
        with ThreadPoolExecutor(FLYING) as pool:
            list(pool.map(lambda n: place.sdk.upload_blob(f"list/{n % 50:02}/{n}", b"", overwrite=True), range(count)))

        def ours():
            return sum(1 for _ in place.ours.list("list"))

        def sdk():
            return sum(1 for _ in place.sdk.list_blobs("list/"))

        same = SameWork()
        times = rounds({"ours": ours, "sdk": sdk}, bench.rounds, lambda name, value: same.check(value))
        bench.add(
            "azure_list", f"Azure: list of {count:,} keys in 50 folders", peer="the SDK's paginator", bar=0.9,
            better="higher", samples=over(times["sdk"], times["ours"]), engine=version("azure-storage-blob"),
        )  # fmt: skip


CHILD = """
import re, sys
from pathlib import Path
from omnistorage.backends.azure import AzureBackend
verb, size, endpoint, container, name, key = sys.argv[1:]
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
store = AzureBackend(container, endpoint_url=endpoint, account_name=name, account_key=key)
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
            command = [sys.executable, "-c", CHILD, verb, str(size), info["endpoint"], info["container"]]
            command += [info["account_name"], info["account_key"]]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            bench.add(
                f"azure_memory_{verb}", f"peak memory: Azure, one object of {size} MiB {verb}",
                peer="32 MiB of parts + 32 MiB", bar=64, better="lower", unit="MiB", samples=[float(done.stdout)],
                engine=version("azure-storage-blob"),
            )  # fmt: skip


GROUPS = {
    "azure_memory": memory,
    "azure_small": small,
    "azure_obstore": small_obstore,
    "azure_streams": streams,
    "azure_list": listing,
}
