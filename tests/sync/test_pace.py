"""Small files between stores at hand are done without threads as long as nothing waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.sync import sync
from omnistorage.sync.execution.adaptive_threads import Pace


@pytest.mark.skipif(Pace(threads=False).threads, reason="without the interpreter's lock threads always help")
def test_three_calls_in_a_row_that_wait_go_to_threads_and_stay_there(monkeypatch):
    clock = [0.0, 0.0]
    monkeypatch.setattr("omnistorage.sync.execution.adaptive_threads.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("omnistorage.sync.execution.adaptive_threads.time.thread_time", lambda: clock[1])

    def call(wall, cpu):
        def run():
            clock[0] += wall
            clock[1] += cpu
            return "done"

        return run

    pace = Pace(threads=False)
    for wall, cpu in ((1, 0.9), (5, 2.4), (5, 0.1), (1, 0.6), (5, 0.1), (5, 2.4)):
        assert pace.run(call(wall, cpu)) == "done"
        assert not pace.threads
    pace.run(call(5, 0.1))
    assert pace.threads


def names_of_threads(monkeypatch, src, dst, **settings):
    seen = set()
    real = LocalBackend.open_reader

    def spy(self, *args):
        seen.add(threading.current_thread().name.rpartition("_")[0] or threading.current_thread().name)
        return real(self, *args)

    monkeypatch.setattr(LocalBackend, "open_reader", spy)
    sync(src, dst, **settings)
    return seen


@pytest.mark.skipif(Pace(threads=False).threads, reason="without the interpreter's lock threads always help")
def test_only_small_files_between_local_folders_do_without(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}").write_text("x")
    me = threading.current_thread().name
    assert me in names_of_threads(monkeypatch, source, tmp_path / "one")
    assert names_of_threads(monkeypatch, source, MemoryBackend()) == {"omnistorage-sync"}
    for path in source.iterdir():
        path.write_bytes(bytes(300_000))
    assert names_of_threads(monkeypatch, source, tmp_path / "two") == {"omnistorage-sync"}


def test_an_executor_that_was_given_gets_all(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}").write_text("x")
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        assert names_of_threads(monkeypatch, source, tmp_path / "three", executor=pool) == {"mine"}
