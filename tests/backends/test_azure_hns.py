"""Azure with a hierarchical namespace: the kit against our own double (``servers/dfs_double.py``), which is no proof of
what Azure does; ``test_azure_live.py`` runs the same against a real account. What is sent is seen by the proxy."""

import threading
from contextlib import suppress

import pytest

from omnistorage import ops
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    CapabilityNotSupported,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy, Unsent
from ..waiting import LIMIT
from .azure_places import fresh, peek, plant


def on_double(**options):
    return fresh("dfs", **options)


class TestDouble(BackendTests):
    def make(self):
        return on_double()

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32HierarchicalDouble = backend_machine(on_double, steps=STEPS, length=LENGTH, peek=peek)


class NoWait(Clock):
    """Counts the waits and does not wait."""

    waits = 0

    def wait(self, seconds, wake):
        self.waits += 1


@pytest.fixture
def proxy():
    with Proxy(server("dfs")["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(proxy):
    account, policy = server("dfs")["account_name"], RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1000))
    ends = {"endpoint": f"{proxy.url}/{account}", "dfs_endpoint_url": f"{proxy.url}/dfs/{account}"}
    with on_double(**ends, policy=policy) as store:
        yield store


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def test_the_account_says_that_it_is_hierarchical(store):
    assert store.is_hierarchical() is True


def test_go_f11_a_move_is_one_rename_of_exactly_what_was_there(proxy, store):
    etag = put(store, "a/src", b"data", user_metadata={"k": "v"}, content_type="text/x").etag
    proxy.forget()
    info = store.move("a/src", "b/new/dst")
    renames = [head for head in proxy.heads if b"x-ms-rename-source" in head]
    assert all(f'x-ms-source-if-match: "{etag}"'.encode() in head for head in renames)
    assert info.etag == store.stat("b/new/dst").etag
    assert (store.stat("b/new/dst").metadata, store.stat("b/new/dst").content_type) == ({"k": "v"}, "text/x")
    assert [info.path for info in store.list()] == ["b/new/dst"]
    put(store, "b/x")
    proxy.forget()
    store.move("b/x", "b/y")
    assert len(proxy.requests) == 2
    put(store, "b/x")
    with pytest.raises(AlreadyExists):
        store.move("b/x", "b/y", CopyOptions(overwrite=False))
    assert b"If-None-Match: *" in proxy.heads[-2]  # behind it, whether it is a folder that stands there
    store.move("b/x", "b/y", CopyOptions(if_match=store.stat("b/y").etag, user_metadata={"n": "1"}))
    assert store.stat("b/y").metadata == {"n": "1"}


def test_a_folder_is_never_moved_copied_or_deleted_as_an_object(store):
    put(store, "folder/x")
    store.mkdir("empty")
    for path in ("folder", "empty"):
        for call in (
            lambda path: store.move(path, "y"),
            lambda path: store.copy(path, "y"),
            store.stat,
            store.open_reader,
        ):
            with pytest.raises(NotFound):
                call(path)
        assert store.delete(path) is False
        assert not store.exists(path)
        assert dict(store.delete_many([path])) == {path: None}
    assert [(info.path, info.kind) for info in store.list_dir()] == [("empty", "dir"), ("folder", "dir")]
    assert [info.path for info in store.list()] == ["folder/x"]
    put(store, "file")
    for call in (store.rmdir, store.purge):
        with pytest.raises(NotFound):
            call("file")
    assert peek(store, "file") == b"data"


@pytest.mark.parametrize("key", ["a/", "./a", "a/."])
def test_a_key_that_the_sdk_would_change_is_no_other_object(store, key):
    ops.write_bytes(store, "a", b"1")
    for change in (lambda: store.delete(key), lambda: list(store.delete_many([key])), lambda: store.move(key, "b")):
        with suppress(NotFound, InvalidPath):
            change()
        assert [info.path for info in store.list()] == ["a"]


def test_a_folder_goes_at_once_with_all_that_is_in_it(proxy, store):
    for path in ("d/x", "d/e/y", "d/e/f/z", "dd/x"):
        put(store, path)
    with pytest.raises(DirectoryNotEmpty):
        store.rmdir("d")
    proxy.forget()
    store.purge("d")
    assert len(proxy.requests) == 2
    assert "recursive=true" in proxy.requests[1]
    assert [info.path for info in store.list()] == ["dd/x"]


def test_mkdir_asks_for_a_new_folder_and_never_for_an_object_in_its_place(proxy, store):
    store.mkdir("a/b")
    assert "resource=directory" in proxy.requests[-1]
    assert b"If-None-Match: *" in proxy.heads[-1]
    store.mkdir("a/b")
    put(store, "a/x")
    with pytest.raises(AlreadyExists):
        store.mkdir("a/x")
    assert peek(store, "a/x") == b"data"


def test_listings_ask_for_what_tells_folders_from_objects(proxy, store):
    put(store, "a/b/c")
    store.mkdir("a/empty")
    proxy.forget()
    assert [info.path for info in store.list()] == ["a/b/c"]
    assert "include=metadata" in proxy.requests[-1]
    assert {info.path for info in ops.walk(store)} >= {"a/b/c"}


@pytest.mark.parametrize("options", [CopyOptions(), CopyOptions(overwrite=False)])
def test_goal_26_a_rename_whose_answer_was_lost_is_found_by_its_id(proxy, store, options):
    put(store, "a/src", user_metadata={"k": "v"})
    proxy.next(Lost("mode=legacy"))
    info = store.move("a/src", "a/dst", options)
    assert info.etag == store.stat("a/dst").etag
    assert store.stat("a/dst").metadata == {"k": "v"}
    assert [info.path for info in store.list()] == ["a/dst"]
    proxy.next(Unsent("mode=legacy"))
    store.move("a/dst", "a/back", options)
    assert [info.path for info in store.list()] == ["a/back"]


def test_goal_26_a_rename_that_others_followed_is_unknown(proxy, store):
    put(store, "a/src")
    store._policy.clock.wait = lambda seconds, wake: plant(store, "a/dst", b"theirs")
    proxy.next(Lost("mode=legacy"))
    with pytest.raises(OutcomeUnknown):
        store.move("a/src", "a/dst")
    assert peek(store, "a/dst") == b"theirs"


def test_goal_24_the_data_lake_service_is_tried_again_by_our_policy_alone(proxy, store):
    put(store, "x")
    busy = Answer("/dfs/", 503, b"{}", {"x-ms-error-code": "ServerBusy", "Content-Type": "application/json"})
    for call in (lambda: store.delete("x"), lambda: store.mkdir("d"), lambda: store.purge("d")):
        proxy.forget()
        proxy.next(busy)
        waits = store._policy.clock.waits
        call()
        assert proxy.count("/dfs/") == 2
        assert store._policy.clock.waits == waits + 1


def test_a_delete_of_an_object_is_one_request_with_its_condition(proxy, store):
    etag = put(store, "x").etag
    proxy.forget()
    with pytest.raises(PreconditionFailed):
        store.delete("x", if_match="other")
    assert b'If-Match: "other"' in proxy.heads[-1]
    assert store.delete("x", if_match=etag) is True
    assert len(proxy.requests) == 2
    assert "recursive" not in proxy.requests[-1], "with it, a folder would go too"


def test_sixteen_moves_onto_one_new_name_have_one_winner(store):
    won, start = [], threading.Barrier(16)
    for number in range(16):
        put(store, f"src/{number}", b"%d" % number)

    def run(number):
        start.wait(LIMIT)
        try:
            store.move(f"src/{number}", "src/winner", CopyOptions(overwrite=False))
            won.append(number)
        except AlreadyExists:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(won) == 1
    assert peek(store, "src/winner") == b"%d" % won[0]
    assert len(list(store.list())) == 16


def test_a_flat_account_refuses_what_folders_need():
    with fresh() as flat:
        for call in (lambda: flat.mkdir("x"), lambda: flat.rmdir("x")):
            with pytest.raises(CapabilityNotSupported):
                call()


def test_a_folder_is_no_object_that_is_there_already_for_copies_and_moves():
    with on_double() as store:
        for path in ("src", "folder/x"):
            with store.open_writer(path) as writer:
                writer.write(b"data")
        for call in (store.copy, store.move):
            for options in (CopyOptions(), CopyOptions(overwrite=False)):
                with pytest.raises(InvalidPath):
                    call("src", "folder", options)
            assert [info.path for info in store.list()] == ["folder/x", "src"]
