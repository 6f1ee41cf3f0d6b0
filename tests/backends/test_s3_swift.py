"""S3 as OpenStack Swift speaks it, a vendor that is not like the others: the kit, and what the vendor table says of it
is seen. What ``probe`` finds out about it is in ``test_probing.py``."""

import itertools
import random
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from omnistorage import ops, probe
from omnistorage.backends.s3 import S3Backend
from omnistorage.core import CopyOptions, ListOptions, ReadOptions, StaleUploads, WriteOptions, power
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, NotFound, PermissionDenied, StorageError
from omnistorage.testing import backend_machine

from ..servers import server
from ..servers.proxy import Flip, Proxy
from ..waiting import LIMIT
from .test_s3 import S3Tests, fresh, peek, plant, sdk
from .test_s3_faults import put

pytestmark = pytest.mark.ci_only


class TestSwift(S3Tests):
    server = "swift"


class TestSwiftObstore(S3Tests):
    server = "swift"

    def make(self):
        return fresh("swift", client="obstore")


TestGoal32Swift = backend_machine(lambda: fresh("swift"), steps=500, peek=peek)  # 50 ms each


@pytest.fixture(params=["sdk", "obstore"])
def store(request):
    with fresh("swift", client=request.param) as store:
        yield store


def racing(call, count=16):
    """How many of ``count`` threads that call at once are told that they have done it."""
    won, start = [], threading.Barrier(count)

    def run(at):
        start.wait(LIMIT)
        with suppress(ClientError):
            call(at)
            won.append(at)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return len(won)


# -- conditions --------------------------------------------------------------------------------------------------------


def test_pain_14_swift_lets_several_creators_of_one_key_win(store):
    """Why it is not asked for ``If-None-Match``, which it keeps as long as nobody else writes."""
    client = sdk("swift")
    for at in range(20):
        wanted = {"Bucket": store.bucket, "Key": f"{store._prefix}{at}", "IfNoneMatch": "*"}
        if racing(lambda n, wanted=wanted: client.put_object(Body=b"%d" % n, **wanted)) > 1:
            break
    else:
        pytest.fail("it keeps the condition now: say so in VENDORS")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Body=b"late", **wanted)


def test_pain_14_swift_refuses_to_replace_by_etag(store):
    etag = put(store, "x").etag
    with pytest.raises(ClientError) as caught:
        sdk("swift").put_object(Bucket=store.bucket, Key=store._prefix + "x", Body=b"new", IfMatch=f'"{etag}"')
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert peek(store, "x") == b"data"


def test_pain_14_a_probe_sees_each_of_the_two(store):
    for _ in range(10):  # a race may go well now and then
        found = {one.trial: one for one in probe(store).findings}
        if not found["one winner of new keys"].kept:
            break
    assert not found["one winner of new keys"].kept
    assert "NotImplemented" in found["conditions by etag"].note
    assert found["order of listings"].kept
    assert list(store.list()) == []


def test_pain_14_a_condition_that_swift_does_not_keep_is_refused_before_anything_is_sent(store):
    etag = put(store, "x").etag
    assert not store.features.create_only
    assert not store.features.if_match
    for call in (
        lambda: store.open_writer("x", WriteOptions(overwrite=False)),
        lambda: store.open_writer("x", WriteOptions(if_match=etag)),
        lambda: store.copy("x", "y", CopyOptions(overwrite=False)),
        lambda: store.move("x", "y", CopyOptions(overwrite=False)),
        lambda: store.delete("x", if_match=etag),
    ):
        with pytest.raises(CapabilityNotSupported, match="conditional_writes=true"):
            call()
    assert [info.path for info in store.list()] == ["x"]
    assert peek(store, "x") == b"data"


def test_pain_14_who_says_that_swift_keeps_conditions_is_told_that_it_does_not(store):
    """Its 501 is a capability that is not there, never a lost race or an unknown outcome."""
    with S3Backend(**{**store._options, "conditional_writes": True}) as hopeful:
        etag = put(hopeful, "x").etag
        with pytest.raises(AlreadyExists):
            put(hopeful, "x", b"new", overwrite=False)
        with pytest.raises(CapabilityNotSupported):
            put(hopeful, "x", b"new", if_match=etag)
        with pytest.raises(CapabilityNotSupported):
            put(hopeful, "x", b"1" * (hopeful.part_size + 1), if_match=etag)
    assert peek(store, "x") == b"data"
    assert not sdk("swift").list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads")


# -- keys --------------------------------------------------------------------------------------------------------------

ODD = ["D//x", "D/a", "/lead", "a b/ü+%25.txt", "t/u", "b!", "b/1", "b\\s", "q?x=1&y#z", "100%", "é", "Z", "~a'b(c)*",
       "s" * 300, "日本/😀"]  # fmt: skip


def test_rs_7_1_4_all_odd_keys_work_and_are_listed_in_the_order_of_their_bytes(store):
    for key in [*ODD, "D//", "t/"]:
        plant(store, key, key.encode())
    found = [info.path for info in store.list()]
    assert found == sorted(ODD, key=str.encode)
    assert store.features.sorted_list
    for path in found:
        assert ops.read_bytes(store, path) == path.encode()
        assert store.stat(path).path == path
    for at, after in enumerate(found):
        assert [info.path for info in store.list("", ListOptions(start_after=after))] == found[at + 1 :]
    assert [(info.path, info.kind) for info in store.list_dir("D")] == [("D//", "dir"), ("D/a", "file")]
    assert [(info.path, info.kind) for info in store.list_dir("t")] == [("t/u", "file")]
    assert {info.path for info in ops.walk(store) if not info.is_dir} == set(ODD)


def test_rs_7_1_4_all_odd_keys_can_be_written_copied_moved_and_deleted(store):
    moved = []
    for key in ODD:
        if "//" in key or key.startswith("/"):  # which nobody can make through us
            plant(store, key, key.encode())
        else:
            put(store, key, key.encode())
        assert peek(store, key) == key.encode()
        moved.append(f"moved/{len(moved)} {key[:200].replace('/', '+')}")
        store.copy(key, "copy")
        store.move("copy", moved[-1])
        assert peek(store, moved[-1]) == key.encode()
    store.delete(ODD[0])
    assert dict(store.delete_many(ODD[1:])) == dict.fromkeys(ODD[1:])
    assert [info.path for info in store.list()] == sorted(moved, key=str.encode)


def test_goal_30_a_listing_of_many_pages_has_no_gaps(store, monkeypatch):
    keys = sorted(("".join(parts) + "x" for parts in itertools.product("k-é", "/0a!", "b/é")), key=str.encode)
    for key in keys:
        plant(store, key)
    page, pages = store.client.page, []

    def short(prefix, **wanted):
        pages.append(page(prefix, **{**wanted, "limit": 7}))
        return pages[-1]

    monkeypatch.setattr(store.client, "page", short)
    assert [info.path for info in store.list()] == keys
    assert len(pages) > 5
    assert {info.path.rstrip("/") for info in store.list_dir()} == {key.partition("/")[0] for key in keys}


# -- what goes with an object ------------------------------------------------------------------------------------------


def test_what_swift_does_not_have_is_a_capability_that_is_not_there(store):
    with pytest.raises(CapabilityNotSupported):
        put(store, "x", extra={"s3.tags": {"a": "b"}})
    with pytest.raises(StorageError, match="InvalidStorageClass"):
        put(store, "x", extra={"s3.storage_class": "STANDARD_IA"})
    assert list(store.list()) == []


def test_metadata_and_headers_go_with_long_and_short_objects(store):
    for body in (b"small", random.Random(1).randbytes(store.part_size + 1)):
        put(
            store, "x", body, user_metadata={"k": "v"}, content_type="text/x", extra={"s3.cache_control": "no-store"}
        )  # fmt: skip
        info = store.stat("x")
        assert (info.size, info.metadata, info.content_type) == (len(body), {"k": "v"}, "text/x")
        assert sdk("swift").head_object(Bucket=store.bucket, Key=store._prefix + "x")["CacheControl"] == "no-store"
        assert ops.read_bytes(store, "x", ReadOptions(len(body) - 3, 9)) == body[-3:]
        assert ops.read_bytes(store, "x") == body


def test_an_upload_that_was_left_is_found_and_removed(store):
    told = sdk("swift").create_multipart_upload(Bucket=store.bucket, Key=store._prefix + "left")
    stale = power(store, StaleUploads)
    assert [upload.path for upload in stale.stale_uploads(older_than=timedelta(seconds=-5))] == ["left"]
    assert stale.remove_stale_uploads(older_than=timedelta(seconds=-5)) == 1
    assert list(stale.stale_uploads(older_than=timedelta(seconds=-5))) == []
    with pytest.raises(ClientError, match="NoSuchUpload"):
        sdk("swift").list_parts(Bucket=store.bucket, Key=store._prefix + "left", UploadId=told["UploadId"])


def test_goal_28_a_flipped_bit_of_an_upload_is_refused_and_sent_again():
    with Proxy(server("swift")["port"]) as proxy, fresh("swift", endpoint=proxy.url, checksums=True) as store:
        proxy.next(Flip("PUT", at=2, up=True))
        put(store, "x", b"12345")
        assert proxy.count("PUT") == 2
        assert peek(store, "x") == b"12345"
        assert ops.read_bytes(store, "x") == b"12345"


def test_wrong_keys_and_buckets_have_their_errors(store):
    with S3Backend(**{**store._options, "secret_key": "wrong"}) as stranger, pytest.raises(PermissionDenied):
        ops.read_bytes(stranger, "x")
    with S3Backend(**{**store._options, "access_key": "test:nobody"}) as stranger, pytest.raises(PermissionDenied):
        put(stranger, "x")
    with S3Backend(**{**store._options, "bucket": "no-such-bucket"}) as gone:
        for call in (lambda: list(gone.list()), lambda: ops.read_bytes(gone, "x"), lambda: put(gone, "x")):
            with pytest.raises(NotFound):
                call()
