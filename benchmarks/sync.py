"""The sync engine: planning by itself, and whole runs against rclone and s5cmd, each of them the program it is.

The 20,000 files of 4 KiB lie in 20 folders; what a run made is compared with the source by count and content before the
next one. Ours runs in this process, the others as processes of their own, with their start-up, which is some 50 ms.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common import MIB, Bench, SameWork, over, rounds, version

from omnistorage import LocalBackend, Prefix
from omnistorage.backends.base import BackendBase
from omnistorage.backends.s3 import S3Backend
from omnistorage.core import Features, ObjectInfo
from omnistorage.sync import plan, sync  # noqa: F401  (a child takes plan from here)
from omnistorage.sync.execution.partitions import execute, prepare

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import servers
from tests.servers.s3 import bare

SIZE, FOLDERS, FLYING = 4096, 20, 16
RCLONE, S5CMD = (str(Path(sys.executable).with_name(name)) for name in ("rclone", "s5cmd"))
STARTS = datetime(2026, 1, 1, tzinfo=UTC)


class Generated(BackendBase):
    """Lists ``count`` objects that nobody holds, without each thousandth; ``stride`` takes them out of order."""

    name = "generated"

    def __init__(self, count, missing, stride=1):
        self.count, self.missing, self.stride = count, missing, stride
        self.features = Features(
            read=True, write=True, delete=True, list=True, sorted_list=stride == 1, stat=True, set_modified=True,
            modified_precision=timedelta(microseconds=1),
        )  # fmt: skip

    def _list(self, prefix, options):
        for number in range(self.count):
            at = number * self.stride % self.count
            if at % 1000 != self.missing:
                yield ObjectInfo(f"folder{at // 1000:06d}/object{at % 1000:06d}.ndjson", SIZE, STARTS)


def planned(count, stride=1):
    """Seconds, actions, and MiB above an empty plan, in a process of its own."""
    text = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from sync import Generated, plan
# Not getrusage: its peak begins with that of the process that started this one.
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
sum(1 for _ in plan(Generated(2000, 5), Generated(2000, 7), delete=True))
before, start = peak(), time.perf_counter()
found = sum(1 for _ in plan(Generated({count}, 5, {stride}), Generated({count}, 7, {stride}), delete=True))
print(time.perf_counter() - start, found, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    seconds, found, grown = done.stdout.split()
    return float(seconds), int(found), float(grown)


def planning(bench: Bench):
    """A million entries against a million: seconds and memory."""
    count = 20_000 if bench.quick else 1_000_000
    runs = [planned(count) for _ in range(bench.rounds)]
    assert {found for _, found, _ in runs} == {count // 500}
    bench.add("sync_plan", f"plan {count:,} against {count:,} entries", peer="seconds on one core", bar=8,
              better="lower", unit="s", samples=[run[0] for run in runs], engine="made up on the way")  # fmt: skip
    bench.add("sync_plan_memory", "the same, memory over an empty plan", peer="peak RSS", bar=100, better="lower",
              unit="MiB", samples=[run[2] for run in runs], engine="made up on the way")  # fmt: skip


def unsorted(bench: Bench):
    """Ten million entries in no order on each side: memory alone."""
    count = 20_000 if bench.quick else 1_000_000
    many = 10 * count
    _, found, grown = planned(many, stride=7_654_321)
    assert found == many // 500
    bench.add("sync_plan_unsorted", f"{many:,} entries in no order, each side", peer="peak RSS", bar=300,
              better="lower", unit="MiB", samples=[grown], engine="external merge sort")  # fmt: skip


class Tree:
    """The source, and where copies of it go."""

    def __init__(self, bench: Bench, count=None):
        self.count = count or (400 if bench.quick else 20_000)
        self.folder = bench.folder / "sync"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.source = self.folder / "source"
        block = os.urandom(SIZE)
        for number in range(FOLDERS):
            (self.source / f"d{number:02}").mkdir(parents=True)
        for number in range(self.count):
            name = f"d{number % FOLDERS:02}/f{number:05}"
            (self.source / name).write_bytes(number.to_bytes(8, "big") + block[8:])
        time.sleep(1.1)  # stores count in seconds, and nobody syncs what was made this second

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def command(*words, env=None):
    done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stderr[-500:]}")


def local(bench: Bench):
    """20,000 small files from folder to folder, and again with nothing to do."""
    tree = Tree(bench)
    target = tree.folder / "target"
    work = SameWork()

    def ours():
        return sync(tree.source, target).ok

    def rclone():
        command(RCLONE, "sync", str(tree.source), str(target), "--config", os.devnull)

    def clean(name, value):
        work.check(sorted((p.name, p.stat().st_size) for p in target.rglob("*") if p.is_file()))
        shutil.rmtree(target)

    both = {"ours": ours, "rclone": rclone}
    times = rounds(both, bench.rounds, clean)
    bench.add("sync_local", f"{tree.count:,} files of 4 KiB, folder to folder", peer=version_of(RCLONE), bar=0.7,
              better="higher", samples=over(times["rclone"], times["ours"]), engine="local, 4 transfers")  # fmt: skip
    ours()
    times = rounds(both, bench.rounds, lambda name, value: None)
    bench.add("sync_local_again", "the same again, nothing to do", peer=version_of(RCLONE), bar=0.3, better="higher",
              samples=over(times["rclone"], times["ours"]), engine="local")  # fmt: skip
    tree.close()


def version_of(program):
    text = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    return " ".join(text.split("\n")[0].split()[:2]) if "rclone" in program else f"s5cmd {text.strip()}"


class Bucket:
    """A SeaweedFS, and a folder of it for each contender."""

    def __enter__(self):
        servers.begin()
        self.info = servers.server("seaweedfs")
        self.bucket = self.info["bucket"]
        self.sdk = bare(self.info)
        self.backends = {}
        return self

    def ours(self, client):
        if client not in self.backends:
            info = self.info
            self.backends[client] = S3Backend(
                self.bucket, endpoint_url=info["endpoint"], access_key=info["access_key"],
                secret_key=info["secret_key"], vendor="seaweedfs", client=client,
            )  # fmt: skip
        return self.backends[client]

    @property
    def env(self):
        info = self.info
        return {
            "RCLONE_CONFIG_T_TYPE": "s3", "RCLONE_CONFIG_T_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_T_ENDPOINT": info["endpoint"], "RCLONE_CONFIG_T_ACCESS_KEY_ID": info["access_key"],
            "RCLONE_CONFIG_T_SECRET_ACCESS_KEY": info["secret_key"], "AWS_ACCESS_KEY_ID": info["access_key"],
            "AWS_SECRET_ACCESS_KEY": info["secret_key"], "AWS_REGION": "us-east-1",
        }  # fmt: skip

    def count(self, prefix):
        return sum(1 for _ in self.ours("sdk").list(prefix))

    def clear(self, prefix):
        self.ours("sdk").purge(prefix)

    def __exit__(self, *exc):
        for backend in self.backends.values():
            backend.close()
        self.sdk.close()
        servers.end()


def s3(bench: Bench):
    """20,000 small files to S3, 16 at a time, and again with nothing to do."""
    tree = Tree(bench, 400 if bench.quick else 20_000)
    rounds_ = 2 if bench.quick else 5
    with Bucket() as bucket:

        def ours(client):
            return lambda: sync(tree.source, Prefix(bucket.ours(client), f"sync/{client}"), transfers=FLYING).ok

        def rclone():
            command(RCLONE, "sync", str(tree.source), f"t:{bucket.bucket}/sync/rclone", "--config", os.devnull,
                    "--transfers", str(FLYING), "--checkers", str(FLYING), env=bucket.env)  # fmt: skip

        def s5cmd():
            command(S5CMD, "--endpoint-url", bucket.info["endpoint"], "--numworkers", str(FLYING), "--log", "error",
                    "sync", f"{tree.source}/", f"s3://{bucket.bucket}/sync/s5cmd/", env=bucket.env)  # fmt: skip

        def boto3():
            files = [path for path in tree.source.rglob("*") if path.is_file()]

            def put(path):
                key = f"sync/boto3/{path.relative_to(tree.source)}"
                bucket.sdk.put_object(Bucket=bucket.bucket, Key=key, Body=path.read_bytes())

            with ThreadPoolExecutor(FLYING) as pool:
                list(pool.map(put, files))

        def after(name, value):
            assert bucket.count(f"sync/{name}") == tree.count, name
            bucket.clear(f"sync/{name}")

        contenders = {"auto": ours("auto"), "sdk": ours("sdk"), "rclone": rclone, "s5cmd": s5cmd, "boto3": boto3}
        times = rounds(contenders, rounds_, after)
        what = f"{tree.count:,} files of 4 KiB to S3, 16 at a time"
        for name, peer, client, bar in (
            ("sync_s3_rclone", "rclone", "auto", 1.0),
            ("sync_s3_s5cmd", "s5cmd", "auto", 1.0),
            ("sync_s3_boto3", "boto3", "sdk", 0.9),
        ):
            label = (
                f"{version('boto3')}, 16 threads"
                if peer == "boto3"
                else version_of({"rclone": RCLONE}.get(peer, S5CMD))
            )
            bench.add(name, what, peer=label, bar=bar, better="higher", samples=over(times[peer], times[client]),
                      engine="obstore, SeaweedFS" if client == "auto" else "boto3, SeaweedFS")  # fmt: skip
        ours("auto")()
        rclone()
        times = rounds({"auto": ours("auto"), "rclone": rclone}, rounds_, lambda name, value: None)
        bench.add("sync_s3_again", "the same again, nothing to do", peer=version_of(RCLONE), bar=1.0, better="higher",
                  samples=over(times["rclone"], times["auto"]), engine="obstore, SeaweedFS")  # fmt: skip
    tree.close()


def s3_s3(bench: Bench):
    """Objects from one folder of a bucket to another."""
    count = 100 if bench.quick else 2_000
    tree = Tree(bench, count)
    with Bucket() as bucket:
        source = Prefix(bucket.ours("auto"), "sync/from")
        sync(tree.source, source, transfers=FLYING)

        def ours():
            return sync(source, Prefix(bucket.ours("auto"), "sync/ours"), transfers=FLYING).ok

        def rclone():
            command(RCLONE, "sync", f"t:{bucket.bucket}/sync/from", f"t:{bucket.bucket}/sync/rclone", "--config",
                    os.devnull, "--transfers", str(FLYING), "--checkers", str(FLYING), env=bucket.env)  # fmt: skip

        def after(name, value):
            assert bucket.count(f"sync/{name}") == count
            bucket.clear(f"sync/{name}")

        times = rounds({"ours": ours, "rclone": rclone}, bench.rounds, after)
        bench.add("sync_s3_s3", f"{count:,} objects within one server", peer=version_of(RCLONE), bar=1.0,
                  better="higher", samples=over(times["rclone"], times["ours"]), engine="obstore")  # fmt: skip
        bucket.clear("sync/from")
    tree.close()


def long(bench: Bench):
    """One long object up and down, against the backend's own streams."""
    size = 32 * MIB if bench.quick else 1024 * MIB
    folder = bench.folder / "sync"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "up").mkdir(parents=True)
    block = os.urandom(8 * MIB)
    with open(folder / "up" / "long", "wb") as file:
        for number in range(size // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    with Bucket() as bucket:
        store, here = bucket.ours("auto"), LocalBackend(folder)

        def stream(source, src, target, dst):
            with source.open_reader(src) as reader, target.open_writer(dst) as writer:
                while data := reader.read(MIB):
                    writer.write(data)

        def up():
            sync(folder / "up", Prefix(store, "sync/long"))

        def bare_up():
            stream(here, "up/long", store, "sync/long/long")

        def down():
            sync(Prefix(store, "sync/long"), folder / "down")

        def bare_down():
            stream(store, "sync/long/long", here, "down/long")

        def gone(name, value):
            store.delete("sync/long/long")

        times = rounds({"ours": up, "stream": bare_up}, bench.rounds, gone)
        bench.add("sync_long_up", f"one object of {size // MIB} MiB to S3", peer="the backend's own stream", bar=0.95,
                  better="higher", samples=over(times["stream"], times["ours"]), engine="obstore")  # fmt: skip
        up()
        times = rounds({"ours": down, "stream": bare_down}, bench.rounds, lambda *_: shutil.rmtree(folder / "down"))
        bench.add("sync_long_down", f"one object of {size // MIB} MiB from S3", peer="the backend's own stream",
                  bar=0.95, better="higher", samples=over(times["stream"], times["ours"]),
                  engine="obstore, SeaweedFS")  # fmt: skip
        gone("", None)
    shutil.rmtree(folder)


def workers(bench: Bench):
    """A plan of small files, carried out by one process and by two."""
    tree = Tree(bench)
    pools = {count: ProcessPoolExecutor(count) for count in (1, 2)}
    for count, pool in pools.items():
        list(pool.map(abs, range(count)))

    def run(count):
        def go():
            at = tree.folder / f"plan{count}"
            prepare(tree.source, tree.folder / "target", at, most_actions=tree.count // 16)
            start = time.perf_counter()
            execute(at, pools[count])
            return time.perf_counter() - start

        return go

    seconds = {1: [], 2: []}
    for number in range(bench.rounds):
        for count in (1, 2) if number % 2 else (2, 1):
            seconds[count].append(run(count)())
            shutil.rmtree(tree.folder / "target")
            shutil.rmtree(tree.folder / f"plan{count}")
    for pool in pools.values():
        pool.shutdown()
    bench.add("sync_workers", f"{tree.count:,} files in 16 partitions, two processes", peer="one process", bar=1.6,
              better="higher", samples=over(seconds[1], seconds[2]), engine="local")  # fmt: skip
    tree.close()


GROUPS = {
    "sync_plan": planning,
    "sync_plan_unsorted": unsorted,
    "sync_local": local,
    "sync_s3": s3,
    "sync_s3_s3": s3_s3,
    "sync_long": long,
    "sync_workers": workers,
}
