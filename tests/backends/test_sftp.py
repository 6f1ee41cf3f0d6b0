"""What is the SFTP backend's own: files as the server keeps them, symlinks, the protocol's corners, what it costs."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import open_backend
from omnistorage.backends.sftp import SFTPBackend
from omnistorage.core import CopyOptions, ListOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    StorageError,
)

from ..servers import server
from ..servers.ssh import on_disk, options_of

BOTH = pytest.mark.parametrize("name", ["sshd", "asyncssh"])
HIDDEN = re.compile(r"\.omnistorage-")


@pytest.fixture
def make():
    """Backends in fresh folders, by the name of the server; ``backend.disk`` is the folder itself."""
    made = []

    def make_one(name="sshd", **options):
        info = server(name)
        given = options_of(info, **options)
        backend = SFTPBackend(**given)
        backend.disk = on_disk(info, given["root"])
        made.append(backend)
        return backend

    yield make_one
    for backend in made:
        backend.close()
        shutil.rmtree(backend.disk, ignore_errors=True)


def put(backend, path, data=b"data", **options):
    with backend.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def get(backend, path, options=ReadOptions()):  # noqa: B008
    with backend.open_reader(path, options) as reader:
        return reader.read()


def files(backend):
    """Every file below the root, hidden ones too, as the server's disk has them."""
    return sorted(str(p.relative_to(backend.disk)) for p in backend.disk.rglob("*") if p.is_symlink() or not p.is_dir())


# -- writing -----------------------------------------------------------------------------------------------------------


@BOTH
def test_go_f1_a_write_is_atomic_and_leaves_no_temporary(make, name):
    backend = make(name)
    put(backend, "x", b"old")
    writer = backend.open_writer("x")
    writer.write(b"new" * 1_000_000)
    writer.prepare()
    assert (backend.disk / "x").read_bytes() == b"old"
    hidden = [found for found in files(backend) if HIDDEN.match(found)]
    assert len(hidden) == 1
    assert [info.path for info in backend.list()] == ["x"]
    assert [info.path for info in backend.list_dir()] == ["x"]
    for call in (backend.exists, backend.delete, backend.open_reader, backend.stat):
        try:
            assert call(hidden[0]) is False
        except InvalidPath:
            pass
    writer.close()
    assert files(backend) == ["x"]


@BOTH
def test_go_s6_go_s8_a_failed_or_pointless_copy_or_move_loses_nothing(make, name):
    backend = make(name, server_copy=True)
    put(backend, "a/x", b"precious")
    os.symlink("a", backend.disk / "alias")
    for call in (backend.copy, backend.move):
        call("a/x", "a/x")
        call("a/x", "alias/x")
        assert (backend.disk / "a/x").read_bytes() == b"precious"
        with pytest.raises(AlreadyExists):
            call("a/x", "alias/x", CopyOptions(overwrite=False))
        with pytest.raises(StorageError):
            call("a/x", "a")
        assert (backend.disk / "a/x").read_bytes() == b"precious"
    assert files(backend) == ["a/x", "alias"]


@BOTH
def test_rs_7_2_pain_14_sixteen_writers_of_one_new_key_have_one_winner(make, name):
    backends = [make(name)]
    options = backends[0]._options
    backends += [SFTPBackend(**options) for _ in range(3)]
    for attempt in range(3):
        won, start = [], threading.Barrier(16)

        def run(number, attempt=attempt, won=won, start=start):
            writer = backends[number % 4].open_writer(f"race-{attempt}", WriteOptions(overwrite=False))
            writer.write(b"%d" % number)
            start.wait()
            try:
                writer.close()
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (backends[0].disk / f"race-{attempt}").read_bytes() == b"%d" % won[0]
    assert files(backends[0]) == ["race-0", "race-1", "race-2"]
    for backend in backends[1:]:
        backend.close()


@BOTH
def test_rs_7_2_create_only_does_not_clobber_what_appeared_while_it_was_open(make, name):
    backend = make(name)
    writer = backend.open_writer("x", WriteOptions(overwrite=False))
    writer.write(b"late")
    (backend.disk / "x").write_bytes(b"first")
    with pytest.raises(AlreadyExists):
        writer.close()
    assert (backend.disk / "x").read_bytes() == b"first"
    assert files(backend) == ["x"]
    with pytest.raises(AlreadyExists):
        backend.open_writer("x", WriteOptions(overwrite=False))


@BOTH
def test_go_f7_without_posix_rename_an_overwrite_still_works_and_claims_less(make, name):
    backend = make(name, posix_rename=False)
    assert not backend.features.atomic_write
    assert not backend.features.atomic_move
    put(backend, "x", b"old")
    put(backend, "x", b"new")
    put(backend, "y", b"moved")
    backend.move("y", "x")
    assert get(backend, "x") == b"moved"
    with pytest.raises(InvalidPath):
        backend.mkdir("folder")
        put(backend, "folder", b"over a folder")
    assert files(backend) == ["x"]


def test_a_server_without_the_extensions_is_refused_and_not_worked_around(make):
    backend = make()
    backend.check_health()
    backend._pool.link().sftp.extensions.clear()
    for options, capability in (({}, "atomic_write"), ({"overwrite": False}, "create_only")):
        with pytest.raises(CapabilityNotSupported) as caught:
            put(backend, "x", **options)
        assert caught.value.capability == capability
        assert "=False" in str(caught.value)
    with pytest.raises(CapabilityNotSupported):
        put(make(hardlinks=False), "x", overwrite=False)
    assert files(backend) == []


@BOTH
def test_rs_7_3_new_files_get_the_umask_and_replaced_ones_keep_their_mode(make, name):
    backend = make(name)
    put(backend, "new")
    (backend.disk / "beside").touch()
    expected = 0o666 & ~server_umask()
    assert (backend.disk / "new").stat().st_mode & 0o777 == expected
    for mode in (0o600, 0o640, 0o755, 0o666):
        (backend.disk / "new").chmod(mode | 0o4000)
        writer = backend.open_writer("new")
        writer.write(b"x")
        (hidden,) = [p for p in backend.disk.iterdir() if HIDDEN.match(p.name)]
        assert not hidden.stat().st_mode & 0o777 & ~mode, "never wider than the file it replaces, from the start"
        writer.close()
        assert (backend.disk / "new").stat().st_mode & 0o7777 == mode


def server_umask():
    """The servers were started by this run and have its umask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@BOTH
def test_times_are_kept_to_the_second_and_impossible_ones_refused_before_anything_happens(make, name):
    backend = make(name)
    when = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    info = put(backend, "x", b"abc", modified_at=when)
    assert info.modified_at == when == backend.stat("x").modified_at
    assert (backend.disk / "x").stat().st_mtime == when.timestamp()
    assert backend.set_metadata("x", modified_at=when + timedelta(days=1)).modified_at == when + timedelta(days=1)
    for wrong in (datetime(1969, 12, 31, tzinfo=UTC), datetime(2107, 1, 1, tzinfo=UTC)):
        with pytest.raises(ConfigError):
            backend.open_writer("y", WriteOptions(modified_at=wrong))
        with pytest.raises(ConfigError):
            backend.set_metadata("x", modified_at=wrong)
    assert files(backend) == ["x"]


def test_pain_2_a_dropped_writer_leaves_its_temporary_to_the_next_call(make):
    backend = make()
    writer = backend.open_writer("x")
    writer.write(b"partial")
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del writer
    assert len(files(backend)) == 1
    assert backend.exists("x") is False
    assert files(backend) == []
    writer = backend.open_writer("x")
    with pytest.warns(ResourceWarning):
        del writer
    backend.close()
    assert files(backend) == []


@BOTH
def test_stale_temporaries_are_found_by_the_servers_clock_and_live_ones_never(make, name):
    backend = make(name)
    old = datetime.now().timestamp() - 7200
    live = backend.open_writer("live")
    live.write(b"at work")
    names = [f"{folder}.omnistorage-{n:016x}.tmp" for n, folder in enumerate(("", "a/b/", ""))]
    (backend.disk / "a/b").mkdir(parents=True)
    for hidden in names:
        (backend.disk / hidden).write_bytes(b"left")
    for path in [backend.disk / names[0], backend.disk / names[1], *backend.disk.glob(".omnistorage-*")]:
        os.utime(path, (old, old))
    os.utime(backend.disk / names[2])
    assert [i.path for i in backend.stale_uploads(older_than=timedelta(0))] == names[:2]
    assert list(backend.stale_uploads(older_than=timedelta(hours=3))) == []
    assert [i.path for i in backend.stale_uploads("a")] == names[1:2]
    assert backend.remove_stale_uploads() == 2
    assert len(files(backend)) == 2
    with pytest.raises(DirectoryNotEmpty):
        (backend.disk / "c").mkdir()
        (backend.disk / "c/.omnistorage-00000000000000aa.tmp").touch()
        backend.rmdir("c")
    live.close()
    assert get(backend, "live") == b"at work"


def test_a_writer_whose_temporary_was_taken_away_raises_and_publishes_nothing(make):
    backend = make()
    put(backend, "x", b"old")
    for options in ({}, {"overwrite": False}):
        writer = backend.open_writer("y" if options else "x", WriteOptions(**options))
        writer.write(b"new")
        writer.prepare()
        for path in backend.disk.glob(".omnistorage-*"):
            path.unlink()
        with pytest.raises(NotFound):
            writer.close()
    assert files(backend) == ["x"]
    assert get(backend, "x") == b"old"


# -- reading and listing -----------------------------------------------------------------------------------------------


@BOTH
def test_rs_7_1_5_a_file_cut_short_under_a_reader_is_an_error_never_a_clean_end(make, name):
    backend = make(name)
    put(backend, "x", b"x" * (4 << 20))
    with backend.open_reader("x") as reader:
        reader.read(1000)
        os.truncate(backend.disk / "x", 2 << 20)
        with pytest.raises(CorruptData):
            reader.read()
        with pytest.raises(CorruptData):
            reader.read_ranges([(0, 10), ((2 << 20) - 5, 10)])


@BOTH
def test_a_reader_gives_the_bytes_the_file_had_when_it_was_opened(make, name):
    backend = make(name)
    put(backend, "log", b"1" * 100_000)
    with backend.open_reader("log") as reader:
        with open(backend.disk / "log", "ab") as log:
            log.write(b"2" * 100_000)
        assert reader.read() == b"1" * 100_000


def test_a_file_of_no_size_is_read_to_its_end(make):
    backend = make()
    backend._place.root = "/proc"
    with backend.open_reader("version") as reader:
        assert reader.info.size == 0
        assert reader.read() == pathlib.Path("/proc/version").read_bytes()


SIZES = [0, 1, 32767, 32768, 261120, 261121, 1 << 20, (5 << 20) + 7]


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=() if size in (0, 261121) else pytest.mark.ci_only) for size in SIZES]
)
def test_sizes_around_the_block_round_trip(make, size):
    backend = make()
    data = os.urandom(size)
    put(backend, "x", data)
    assert (backend.disk / "x").read_bytes() == data
    assert get(backend, "x") == data
    assert get(backend, "x", ReadOptions(offset=size // 2, length=100_000)) == data[size // 2 :][:100_000]
    assert backend.read_ranges("x", [(size // 3, 300_000), (0, 5)]) == [data[size // 3 :][:300_000], data[:5]]


def test_a_look_at_the_head_of_a_file_does_not_fetch_the_file(make):
    backend = make()
    put(backend, "x", b"x" * (32 << 20))
    with backend.open_reader("x") as reader:
        assert not reader._asked, "nothing is asked for before the first read"
        reader.read(10)
        assert reader._under_way <= 512 << 10


def test_names_that_are_not_utf8_are_listed_and_accepted_back(make):
    backend = make()
    with open(os.fsencode(backend.disk) + b"/caf\xe9", "wb") as file:
        file.write(b"latin")
    (info,) = backend.list()
    assert info.path == "caf\udce9"
    assert get(backend, info.path) == b"latin"
    assert backend.delete(info.path) is True
    assert files(backend) == []


def test_a_pipe_is_refused_and_nobody_waits_for_its_writer(make):
    backend = make()
    os.mkfifo(backend.disk / "pipe")
    assert [(i.path, i.kind) for i in backend.list()] == [("pipe", "other")]
    with pytest.raises(InvalidPath):
        backend.open_reader("pipe")


@BOTH
def test_rs_7_1_4_a_listing_reads_each_folder_once_and_stats_nothing(make, name):
    backend = make(name, connections=1)
    for n in range(30):
        (backend.disk / f"f{n % 3}").mkdir(exist_ok=True)
        (backend.disk / f"f{n % 3}" / f"{n:02}").write_bytes(b"12345")
    backend.check_health()
    session = backend._pool.link().sftp
    before = session._number
    assert len(list(backend.list())) == 30
    # Four folders: open, read, read to the end and close each, and for three of them where and what they are, and again
    # where once they are open.
    assert session._number - before <= 4 * 4 + 3 * 3


def test_rs_7_2_a_folder_that_vanishes_is_reported_or_raised_never_left_out(make):
    backend = make()
    for path in ("a/x", "b/x", "c/x"):
        put(backend, path)
    listing = backend.list()
    assert next(listing).path == "a/x"
    shutil.rmtree(backend.disk / "b")
    with pytest.raises(NotFound) as caught:
        list(listing)
    assert caught.value.path == "b"
    put(backend, "b/x")
    errors = []
    listing = backend.list("", ListOptions(on_error=errors.append))
    assert next(listing).path == "a/x"
    shutil.rmtree(backend.disk / "b")
    assert [info.path for info in listing] == ["c/x"]
    assert [error.path for error in errors] == ["b"]


def test_go_s1_a_missing_root_raises_and_a_write_makes_it(make):
    backend = make()
    nowhere = SFTPBackend(**{**backend._options, "root": f"{backend._options['root']}/not/there"})
    for call in (lambda: list(nowhere.list()), lambda: list(nowhere.list("x")), nowhere.check_health):
        with pytest.raises(NotFound):
            call()
    assert nowhere.exists("x") is False
    put(nowhere, "a/x", b"made")
    assert [info.path for info in nowhere.list()] == ["a/x"]
    nowhere.close()


def test_a_relative_root_starts_at_the_login_folder(make):
    backend = make("asyncssh")
    name = backend._options["root"].lstrip("/")
    twin = SFTPBackend(**{**backend._options, "root": name})
    put(twin, "x", b"same place")
    assert get(backend, "x") == b"same place"
    assert twin.url.endswith(f"/~/{name}/")
    twin.close()


def test_rs_7_7_health_sees_a_missing_root_and_errors_name_the_path(make):
    backend = make()
    backend.check_health()
    for call, path in ((backend.stat, "no/such"), (backend.open_reader, "none"), (backend.rmdir, "nothing")):
        with pytest.raises(FileNotFoundError) as caught:
            call(path)
        assert (caught.value.path, caught.value.backend) == (path, "sftp")
        assert caught.value.args[0]
    put(backend, "x")
    with pytest.raises(FileExistsError):
        put(backend, "x", overwrite=False)
    os.remove(backend.disk / "x")
    backend.disk.rmdir()
    with pytest.raises(NotFound):
        backend.check_health()
    backend.disk.write_text("a file")
    with pytest.raises(NotFound):
        backend.check_health()
    backend.disk.unlink()


# -- never out of the root ---------------------------------------------------------------------------------------------


@BOTH
def test_go_f2_goal_40_no_method_follows_a_symlink_out_of_the_root(make, request, name):
    backend, outside = make(name, server_copy=True), make(name)
    put(backend, "mine", b"mine")
    for path in ("secret", "folder/secret"):
        put(outside, path, b"theirs")
    os.symlink(outside.disk, backend.disk / "way")
    os.symlink(outside.disk / "secret", backend.disk / "file")
    os.symlink(f"../{outside.disk.name}", backend.disk / "relative")
    namesake = backend.disk.with_name(backend.disk.name + "-too")  # begins like the root, and is not in it
    shutil.copytree(outside.disk, namesake)
    request.addfinalizer(lambda: shutil.rmtree(namesake))
    os.symlink(f"../{namesake.name}", backend.disk / "namesake")
    before = files(outside)
    for way in ("way", "relative", "namesake"):
        calls = [
            lambda w=way: backend.open_reader(f"{w}/secret"),
            lambda w=way: backend.stat(f"{w}/secret"),
            lambda w=way: backend.delete(f"{w}/secret"),
            lambda w=way: put(backend, f"{w}/new"),
            lambda w=way: put(backend, f"{w}/deep/er/new"),
            lambda w=way: backend.mkdir(f"{w}/made"),
            lambda w=way: backend.rmdir(f"{w}/folder"),
            lambda w=way: backend.purge(f"{w}/folder"),
            lambda w=way: backend.purge(w),
            lambda w=way: backend.copy("mine", f"{w}/new"),
            lambda w=way: backend.copy(f"{w}/secret", "stolen"),
            lambda w=way: backend.move("mine", f"{w}/new"),
            lambda w=way: backend.move(f"{w}/secret", "stolen"),
            lambda w=way: backend.set_metadata(f"{w}/secret", modified_at=datetime(2020, 1, 1, tzinfo=UTC)),
            lambda w=way: backend.read_ranges(f"{w}/secret", [(0, 1)]),
            lambda w=way: list(backend.list(w)),
            lambda w=way: list(backend.list_dir(w)),
            lambda w=way: list(backend.stale_uploads(w)),
        ]
        for number, call in enumerate(calls):
            with pytest.raises((InvalidPath, NotFound)):
                call()
                pytest.fail(f"call {number} through {way!r}")
        assert backend.exists(f"{way}/secret") is False
    with pytest.raises((InvalidPath, NotFound)):
        backend.open_reader("file")
    assert backend.exists("file") is False
    assert files(outside) == before == sorted(str(p.relative_to(namesake)) for p in namesake.rglob("*") if p.is_file())
    assert get(outside, "secret") == b"theirs"
    kinds = {info.path: info.kind for info in backend.list()}
    assert kinds == {"file": "link", "mine": "file", "namesake": "link", "relative": "link", "way": "link"}
    put(backend, "file", b"replaces the link")
    assert get(outside, "secret") == b"theirs"


@BOTH
def test_a_symlink_inside_the_root_is_followed_by_reads(make, name):
    backend = make(name)
    put(backend, "real/x", b"inside")
    os.symlink(backend.disk / "real" if name == "sshd" else "real", backend.disk / "alias")
    os.symlink("real/x", backend.disk / "x")
    assert get(backend, "alias/x") == get(backend, "x") == b"inside"
    assert backend.stat("x").size == 6
    assert [i.path for i in backend.list("alias")] == ["alias/x"]
    assert backend.delete("x") is True
    assert get(backend, "real/x") == b"inside"


# -- cost --------------------------------------------------------------------------------------------------------------


def test_rs_7_5_requests_per_call_are_as_few_as_the_protocol_allows(make):
    backend = make(connections=1)
    backend.check_health()
    session = backend._pool.link().sftp

    def cost(call):
        call()
        backend.exists("settle")  # what a reader leaves to close goes along with the next request
        before = session._number
        call()
        backend.exists("settle")
        return session._number - before - 2

    assert cost(lambda: put(backend, "x", b"small")) == 7  # look, open, write, mode, look, close, rename
    put(backend, "f/x")
    assert cost(lambda: put(backend, "f/x", b"small")) == 10  # and thrice where the folder is: it, opened, to publish
    assert cost(lambda: get(backend, "x")) == 7  # where, what, open, where, look, read, close
    assert cost(lambda: backend.stat("x")) == 2
    assert cost(lambda: backend.exists("x")) == 2
    assert cost(lambda: (put(backend, "y"), backend.delete("y"))) == 7  # six, and one: nothing is looked at before


MEMORY = """
import hashlib, re, sys
from omnistorage import open_backend
from omnistorage.backends.sftp import SFTPBackend
import paramiko, json

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024

options, verb, size = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with SFTPBackend(**options) as backend:
    backend.check_health()
    before = peak()
    if verb == "write":
        block = b"x" * (1 << 20)
        with backend.open_writer("big") as writer:
            for _ in range(size >> 20):
                writer.write(block)
    else:
        with backend.open_reader("big") as reader:
            while block := reader.read(1 << 20):
                for _ in range(4):  # slower than the server: what was asked for too early would pile up
                    hashlib.sha3_512(block)
    print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
@pytest.mark.ci_only
def test_pain_7_memory_is_bounded_whatever_the_size(make):
    import json

    backend = make()
    grown = {}
    for verb in ("write", "read"):
        command = [sys.executable, "-c", MEMORY, json.dumps(backend._options), verb, str(64 << 20)]
        grown[verb] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown["write"] <= 16, grown
    assert grown["read"] <= 24, grown


def test_it_is_opened_by_url_and_lists_what_the_url_names(make):
    backend = make()
    put(backend, "a b/x", b"by url")
    o = backend._options
    query = f"key_file={o['key_file']}&known_hosts={o['known_hosts']}&ssh_config=&timeout=5"
    url = f"sftp://{o['user']}@{o['host']}:{o['port']}{o['root']}/a%20b?{query}"
    with open_backend(url, trusted_url=True) as found:
        assert get(found, "x") == b"by url"
        assert found.url == f"sftp://{o['user']}@{o['host']}:{o['port']}{o['root']}/a%20b/"
