"""SFTP against OpenSSH's sshd on loopback: 128 MiB each way and writes of 1 MiB, against paramiko's own best.

The peer is one ``paramiko.SFTPClient`` with ``putfo`` (pipelined) and ``getfo`` (prefetch), both at their defaults.
Both sides use paramiko's transport with the same ciphers, one connection, and files that are compared by content. A
process of its own with asyncssh's client is shown beside them; it has no bar.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from common import MIB, Bench, SameWork, over, rounds, version

from omnistorage.backends.sftp import SFTPBackend

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ASYNCSSH = """
import asyncio, json, sys, time
import asyncssh

async def main(options, path, size):
    data = bytes(range(256)) * (size // 256)
    async with asyncssh.connect(options["host"], options["port"], username=options["user"],
                                client_keys=[options["key_file"]], known_hosts=options["known_hosts"]) as connection:
        async with connection.start_sftp_client() as client:
            start = time.perf_counter()
            async with client.open(path, "wb") as file:
                for at in range(0, size, 1 << 20):
                    await file.write(data[at:at + (1 << 20)])
            middle = time.perf_counter()
            async with client.open(path, "rb") as file:
                while await file.read(1 << 20):
                    pass
            print(json.dumps([middle - start, time.perf_counter() - middle]))

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


class Parts:
    """A file of ``blocks``; each read gives the next block or a piece of it."""

    def __init__(self, blocks):
        self.blocks = [memoryview(block) for block in reversed(blocks)]

    def read(self, size):
        if not self.blocks:
            return b""
        part = self.blocks[-1][:size]
        rest = self.blocks[-1][size:]
        if rest:
            self.blocks[-1] = rest
        else:
            self.blocks.pop()
        return bytes(part)


class Count:
    """Takes everything and counts it."""

    def __init__(self):
        self.size = 0

    def write(self, data):
        self.size += len(data)


def connected(folder):
    """A server of its own, its options, and paramiko's client of it."""
    import paramiko

    from tests.servers.ssh import start_sshd

    folder.mkdir()
    process, info = start_sshd(folder)
    client = paramiko.SSHClient()
    client.load_host_keys(info["known_hosts"])
    client.connect(
        info["host"], info["port"], info["user"], key_filename=info["key_file"], allow_agent=False, look_for_keys=False
    )
    return process, info, client


def transfer(bench: Bench):
    """Writing and reading 128 MiB, and writing 1 MiB many times."""
    process, info, client = connected(bench.folder / "sshd")
    names = ("host", "port", "user", "key_file", "known_hosts")
    options = {name: info[name] for name in names}
    try:
        peer = client.open_sftp()
        with SFTPBackend(**options, root=info["root"], ssh_config="", connections=1) as backend:
            large(bench, backend, peer, info["root"])
            small(bench, backend, peer, info["root"])
        beside(bench, options, info["root"])
    finally:
        client.close()
        process.kill()
        process.wait()


def large(bench, backend, peer, root):
    blocks = [hashlib.shake_256(bytes([n])).digest(MIB) for n in range(16)] * (2 if bench.quick else 8)
    path = f"{root}/large"

    def our_write():
        with backend.open_writer("large") as writer:
            for block in blocks:
                writer.write(block)

    def our_read():
        sink = Count()
        with backend.open_reader("large") as reader:
            while data := reader.read(MIB):
                sink.write(data)
        return sink.size

    def their_read():
        sink = Count()
        peer.getfo(path, sink)
        return sink.size

    same, sizes = SameWork(), SameWork()

    def check_and_clear(name, value):
        with open(path, "rb") as file:
            same.check(hashlib.file_digest(file, "sha256").hexdigest())
        os.unlink(path)

    contenders = {"peer": lambda: peer.putfo(Parts(blocks), path), "ours": our_write}
    times = rounds(contenders, bench.rounds * 2 - 1, check_and_clear)
    report(bench, "write", f"sftp write of {len(blocks)} MiB", "paramiko putfo", times, len(blocks))
    our_write()
    times = rounds({"peer": their_read, "ours": our_read}, bench.rounds * 2 - 1, lambda name, n: sizes.check(n))
    report(bench, "read", f"sftp read of {len(blocks)} MiB", "paramiko getfo with prefetch", times, len(blocks))
    os.unlink(path)


def small(bench, backend, peer, root):
    data = hashlib.shake_256(b"small").digest(MIB)
    count = 4 if bench.quick else 40

    def our_write():
        for n in range(count):
            with backend.open_writer(f"small-{n}") as writer:
                writer.write(data)

    def their_write():
        for n in range(count):
            peer.putfo(io.BytesIO(data), f"{root}/small-{n}")

    same = SameWork()

    def check_and_clear(name, value):
        for n in range(count):
            same.check(hashlib.sha256(Path(root, f"small-{n}").read_bytes()).hexdigest())
            os.unlink(f"{root}/small-{n}")

    times = rounds({"peer": their_write, "ours": our_write}, bench.rounds * 2 - 1, check_and_clear)
    report(bench, "write_1m", f"{count} sftp writes of 1 MiB", "paramiko putfo", times, count)


def report(bench, verb, what, peer, times, mib):
    best = {name: mib / min(seconds) for name, seconds in times.items()}
    print(f"      ours {best['ours']:.0f} MiB/s, {peer} {best['peer']:.0f} MiB/s at best")
    bench.add(
        f"sftp_{verb}", what, peer=peer, bar=0.95, better="higher", samples=over(times["peer"], times["ours"]),
        engine=f"SFTPBackend on {version('paramiko')}",
    )  # fmt: skip


def beside(bench, options, root):
    size = (32 if bench.quick else 128) * MIB
    command = [sys.executable, "-c", ASYNCSSH, json.dumps(options), f"{root}/beside", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"      {version('asyncssh')} did not run: {done.stderr.strip().splitlines()[-1:]}")
        return
    write, read = json.loads(done.stdout)
    print(f"      beside: {version('asyncssh')} writes {size / MIB / write:.0f}, reads {size / MIB / read:.0f} MiB/s")


GROUPS = {"transfer": transfer}
