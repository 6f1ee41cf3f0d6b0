"""The memory backend, as a file system and as a flat key space."""

import threading

import pytest

from omnistorage.backends.local import LocalBackend
from omnistorage.backends.memory import MemoryBackend
from omnistorage.core import CopyOptions, ListOptions
from omnistorage.errors import BackendClosed, InvalidPath
from omnistorage.testing import BackendTests, BasicBackend

from ..waiting import LIMIT


class TestMemory(BackendTests):
    def make(self):
        return MemoryBackend()


class TestFlatMemory(BackendTests):
    def make(self):
        return MemoryBackend(dirs=False)


class TestBasicBackend(BackendTests):
    def make(self):
        return BasicBackend()


def test_a_write_finished_after_the_backend_was_closed_is_told_so():
    backend = MemoryBackend()
    writer = backend.open_writer("x")
    writer.write(b"data")
    backend.close()
    with pytest.raises(BackendClosed):
        writer.close()
    with pytest.raises(BackendClosed):
        MemoryBackend().copy("x", "y", CopyOptions(source=backend))


def test_moves_between_two_backends_lose_nothing_and_never_lock_each_other_out():
    one, two = MemoryBackend(), MemoryBackend()
    for number in range(300):
        one.put_raw(f"a{number}", b"x")
        two.put_raw(f"b{number}", b"x")

    def work(source, target, head):
        for number in range(300):
            target.move(f"{head}{number}", f"{head}{number}", CopyOptions(source=source))

    threads = [threading.Thread(target=work, args=args, daemon=True) for args in ((one, two, "a"), (two, one, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(i.path for i in two.list()) == sorted(f"a{n}" for n in range(300))
    assert sorted(i.path for i in one.list()) == sorted(f"b{n}" for n in range(300))


@pytest.mark.parametrize("kind", [MemoryBackend, LocalBackend])
def test_a_name_that_has_no_place_in_the_order_is_refused_by_listings(kind, tmp_path):
    backend = kind(tmp_path) if kind is LocalBackend else kind()
    for call in (
        lambda: backend.list("\ud800"),
        lambda: backend.list("a/\udfff"),
        lambda: backend.list("", ListOptions(start_after="\ud800")),
        lambda: backend.list_dir("\ud800"),
    ):
        with pytest.raises(InvalidPath):
            list(call())
    assert list(backend.list("\udc80")) == list(backend.list("", ListOptions(start_after="\udcff"))) == []
