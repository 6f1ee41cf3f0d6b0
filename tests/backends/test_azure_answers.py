"""Azure when a server's answers, or what a caller gives, are odd: read for what they say, or an error of ours."""

from contextlib import suppress

import pytest

from omnistorage import ops
from omnistorage.backends.azure import AzureBackend
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)

from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy
from .azure_places import fresh, marked, peek, sdk, via


class NoWait(Clock):
    def wait(self, seconds, wake):
        pass


def policy(**options):
    return RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1000), **options)


@pytest.fixture
def proxy():
    with Proxy(server("azurite")["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(proxy):
    with fresh(endpoint=via(proxy), policy=policy()) as store:
        yield store


@pytest.fixture
def folders():
    """The double of a hierarchical account, and a proxy before it."""
    account = server("dfs")["account_name"]
    with Proxy(server("dfs")["port"]) as proxy:
        ends = {"endpoint": f"{proxy.url}/{account}", "dfs_endpoint_url": f"{proxy.url}/dfs/{account}"}
        with fresh("dfs", **ends, policy=policy()) as store:
            yield store, proxy


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def answer(method, status, code=""):
    return Answer(method, status, b"", {"x-ms-error-code": code} if code else {})


# -- ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (206, {"Content-Range": "bytes 0-1/10"}),
        (206, {"Content-Range": "bytes 1-5/10"}),
        (206, {"Content-Range": "bytes 0-4/10"}),  # and ten come
        (206, {"Content-Range": "bytes 0-x/10"}),
    ],
)
def test_goal_27_a_range_of_another_length_is_refused(proxy, store, status, said):
    put(store, "x", b"0123456789")
    body = b"01" if "0-1" in str(said) else b"0123456789"
    proxy.next(marked("GET", status, body, {"ETag": '"e"', **said}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(0, 5))


@pytest.mark.parametrize(("status", "said"), [(200, {}), (206, {"Content-Range": "bytes 0-9/10"})])
def test_goal_27_what_is_more_than_the_range_is_not_given(proxy, store, status, said):
    put(store, "x", b"0123456789")
    proxy.next(marked("GET", status, b"0123456789", {"ETag": '"e"', **said}))
    with store.open_reader("x", ReadOptions(0, 5)) as reader:
        assert reader.read(-1) == b"01234"
        assert reader._first._body.read(100) == b"", "nor read to the end, however long that is"


def test_a_range_of_what_was_empty_and_grew_meanwhile_is_a_range(proxy, store):
    put(store, "empty", b"")
    assert ops.read_bytes(store, "empty", ReadOptions(0, 5)) == b""
    put(store, "x", b"0123456789")
    proxy.next(answer("GET", 416, "InvalidRange"))
    assert ops.read_bytes(store, "x", ReadOptions(0, 5)) == b"01234"


def test_a_range_behind_the_end_is_empty_though_the_answer_says_no_code(proxy, store):
    put(store, "x")
    proxy.next(answer("GET", 416))
    assert ops.read_bytes(store, "x", ReadOptions(9, 5)) == b""


# -- checksums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"overwrite": False}])
def test_goal_28_a_body_that_never_arrives_whole_is_corrupt_and_not_unknown(proxy, store, options):
    proxy.next(*[answer("PUT", 400, "Md5Mismatch")] * 6)
    with pytest.raises(CorruptData):
        put(store, "x", **options)
    assert peek(store, "x") is None


def test_a_digest_that_the_service_did_not_keep_up_to_date_is_none(store):
    with fresh(checksums=True) as store:
        from azure.storage.blob import ContentSettings

        blob = sdk().get_blob_client(store._prefix + "page")
        blob.create_page_blob(512, content_settings=ContentSettings(content_md5=bytearray(16)))
        blob.upload_page(b"1" * 512, 0, 512)
        assert ops.read_bytes(store, "page") == b"1" * 512
        assert not store.stat("page").hashes
        assert not next(store.list()).hashes


# -- odd answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [{"Content-MD5": "???"}, {"Content-MD5": "é"}, {"Last-Modified": "yesterday"}, {"x-ms-blob-content-md5": "a"}],
)
def test_headers_that_cannot_be_read_say_nothing(proxy, store, said):
    proxy.next(marked("HEAD", 200, b"", {"ETag": '"e"', **said}))
    info = store.stat("x")
    assert info.etag == "e"
    assert not info.hashes
    assert info.modified_at is None


def test_a_listing_that_cannot_be_read_is_asked_for_again(proxy, store):
    put(store, "x")
    proxy.forget()
    row = "<Blob><Name>x</Name><Properties><Content-Length>many</Content-Length></Properties></Blob>"
    page = f"<EnumerationResults><Blobs>{row}</Blobs><NextMarker/></EnumerationResults>".encode()
    proxy.next(marked("comp=list", 200, page))
    assert [info.size for info in store.list()] == [4]


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 -0000", "soon", "-1"])
def test_any_retry_after_is_borne(proxy, store, value):
    proxy.next(Answer("HEAD", 503, b"", {"x-ms-error-code": "ServerBusy", "Retry-After": value}))
    put(store, "x")
    assert store.stat("x").size == 4


def test_goal_26_a_503_without_a_word_of_the_service_may_have_been_done(proxy, store):
    etag = put(store, "x").etag
    sdk().delete_blob(store._prefix + "x")
    proxy.next(answer("DELETE", 503))
    assert store.delete("x", if_match=etag) is None


# -- copies ------------------------------------------------------------------------------------------------------------


def pending(status, copy_id="c1"):
    return {
        "x-ms-copy-id": copy_id, "x-ms-copy-status": status, "ETag": '"0x1"',
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
    }  # fmt: skip


class Wrote:
    """The write id of the first request, in the answers to later ones."""

    def __init__(self, proxy):
        self.proxy = proxy

    def id(self):
        name = b"x-ms-meta-omnistorage_write_id: "
        return next(
            line[len(name) :].decode() for head in self.proxy.heads for line in head.split(b"\r\n")
            if line.startswith(name)
        )  # fmt: skip


def test_goal_26_a_copy_under_way_whose_answer_was_lost_is_waited_for(proxy, store):
    put(store, "src")
    proxy.forget()

    def wait(seconds, wake):  # the first answer was lost: from here on the store says that it copies
        ours = {"x-ms-meta-omnistorage_write_id": Wrote(proxy).id()}
        states = [pending("pending"), pending("pending"), pending("failed"), pending("failed"), pending("failed")]
        proxy.next(answer("PUT", 409, "BlobAlreadyExists"))
        proxy.next(*[marked("HEAD", 200, b"", {**ours, **state}) for state in states])
        store._policy.clock.wait = lambda seconds, wake: None

    store._policy.clock.wait = wait
    proxy.next(Lost("PUT"))
    with pytest.raises(StorageError, match="gave up"):
        store.move("src", "dst", CopyOptions(overwrite=False))
    assert peek(store, "src") == b"data", "a copy that failed later is no copy"


def test_a_source_that_changed_is_no_conflict_at_the_target(proxy, store, folders):
    put(store, "src")
    proxy.next(answer("PUT", 412, "SourceConditionNotMet"))
    with pytest.raises(PreconditionFailed) as caught:
        store.copy("src", "dst", CopyOptions(overwrite=False))
    assert not isinstance(caught.value, AlreadyExists)
    assert caught.value.path == "src"
    deep, before = folders
    put(deep, "a/src")
    before.next(answer("mode=legacy", 412, "SourceConditionNotMet"))
    with pytest.raises(PreconditionFailed) as caught:
        deep.move("a/src", "a/dst", CopyOptions(overwrite=False))
    assert not isinstance(caught.value, AlreadyExists)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_goal_26_the_end_of_a_folder_whose_answer_was_lost_is_no_missing_folder(folders):
    store, proxy = folders
    put(store, "d/x")
    proxy.next(Lost("recursive=true"))
    store.purge("d")
    store.mkdir("e")
    proxy.next(Lost("DELETE"))
    store.rmdir("e")
    assert list(store.list_dir()) == []
    with pytest.raises(NotFound):
        store.rmdir("e")


# -- names and headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a\udcff", "\ud800", "\x01", "a\x7fb", "a\uffff", "x" * 1500])
def test_pain_1_odd_names_are_errors_of_ours_or_names(store, path):
    calls = (store.stat, store.open_reader, store.delete, lambda path: store.copy(path, "y"),
             lambda path: list(store.delete_many([path, "b"])), lambda path: store.move(path, "y"))  # fmt: skip
    assert store.exists(path) is False
    for call in calls:
        with suppress(NotFound, InvalidPath):
            call(path)
    if not path.isprintable() and path[-1] > "\ud7ff" and path[-1] < "\ue000":
        for call in (store.list, store.list_dir):
            with pytest.raises(InvalidPath):
                list(call(path))


@pytest.mark.parametrize(
    "options",
    [
        {"content_type": "text/plain\n"},
        {"content_type": "a\r\nx-ms-meta-a: b"},
        {"content_type": "€"},
        {"extra": {"azure.cache_control": "a\nb"}},
        {"extra": {"azure.content_disposition": "attachment; filename=€"}},
        {"extra": {"azure.tags": "a\nb"}},
        {"extra": {"azure.tags": 7}},
        {"extra": {"azure.encryption_scope": "a\nb"}},
        {"user_metadata": {"a": "é"}},
        {"user_metadata": {"a": "b\nc"}},
    ],
)
@pytest.mark.parametrize("size", [1, 70_000])
def test_what_no_header_can_hold_is_refused_and_sent_never(proxy, options, size):
    with fresh(endpoint=via(proxy), policy=policy(), part_size=65536) as store:
        with pytest.raises(ConfigError):
            put(store, "x", b"1" * size, **options)
        assert proxy.count("PUT") == 0


@pytest.mark.parametrize("etag", ["€", "a\nb", "a\udcff"])
def test_what_no_etag_can_be_is_refused(store, folders, etag):
    for one in (store, folders[0]):
        put(one, "x")
        for call in (
            lambda one: one.delete("x", if_match=etag),
            lambda one: one.open_reader("x", ReadOptions(if_match=etag)),
            lambda one: one.open_reader("x", ReadOptions(if_none_match=etag)),
            lambda one: put(one, "x", if_match=etag),
            lambda one: one.copy("x", "y", CopyOptions(if_match=etag)),
            lambda one: one.move("x", "y", CopyOptions(if_match=etag)),
        ):
            with pytest.raises(ConfigError):
                call(one)
        assert peek(one, "x") == b"data"


# -- who one is --------------------------------------------------------------------------------------------------------


def test_goal_41_no_error_in_a_chain_and_no_log_shows_a_sas(caplog):
    caplog.set_level("DEBUG")
    port = server("azurite")["port"]
    shown, secret = [], "Y2FuYXJ5" + "c2VjcmV0"
    for end in (f"http://127.0.0.1:{port}/devstoreaccount1", "http://127.0.0.1:9/me"):
        with AzureBackend(
            "box", endpoint_url=end, sas_token=f"sv=2021-01-01&sig={secret}", policy=policy(retries=1)
        ) as store:
            for call in (lambda: store.stat("x"), lambda: put(store, "x"), lambda: list(store.delete_many(["x"]))):
                with pytest.raises((BackendUnavailable, PermissionDenied, OutcomeUnknown)) as failed:
                    call()
                seen, left = set(), [failed.value]
                while left:
                    error = left.pop()
                    if error is not None and id(error) not in seen:
                        seen.add(id(error))
                        shown.append(f"{error!r} {error}")
                        left += [error.__cause__, error.__context__]
    assert not [text for text in shown if secret in text]
    assert not [record.name for record in caplog.records if secret in record.getMessage()]


def test_a_sas_with_its_question_mark_opens_the_source_of_a_copy(monkeypatch, proxy, store):
    from omnistorage.core.secret import Secret

    from .test_azure import container_sas

    monkeypatch.setenv("A_SAS", "?" + container_sas())
    with fresh(endpoint=via(proxy), account_key=None, sas_token=Secret.env("A_SAS")) as store:
        put(store, "x")
        store.copy("x", "y")
        assert peek(store, "y") == b"data"
    assert not [head for head in proxy.heads if b"??" in head]


class Refusing:
    def get_token(self, *scopes, **options):
        from azure.core.exceptions import ClientAuthenticationError

        class Response:
            status_code, reason, headers = 400, "Bad Request", {}

            def text(self):
                return ""

        raise ClientAuthenticationError("invalid_client", response=Response())


def test_go_f5_a_token_that_is_refused_is_permission_denied():
    store = AzureBackend("box", account_name="me", credential=Refusing(), policy=policy(retries=0))
    with store, pytest.raises(PermissionDenied):
        store.stat("x")


# -- lengths -----------------------------------------------------------------------------------------------------------


def test_no_block_is_longer_than_the_service_takes():
    for options in ({"part_size": 4001 << 20}, {"part_size": 5 << 30}):
        with pytest.raises(ConfigError, match="part_size"):
            AzureBackend("box", account_name="me", anonymous=True, **options)


@pytest.mark.parametrize("checksums", [False, True])
def test_the_blocks_of_a_stream_double_up_to_what_the_service_takes(checksums):
    with fresh(part_size=65536, checksums=checksums) as store:
        writer = store.open_writer("x")
        writer.write(b"1" * 65537)
        writer._parts.settle()
        writer._parts.sent, writer._part_size = 999, 3 << 30  # as after 3 TiB
        writer._push()
        assert writer._part_size == 4000 << 20
        writer.abort()


def test_a_move_onto_a_folder_is_no_conflict_with_an_object(folders):
    store, _ = folders
    put(store, "folder/x")
    put(store, "y")
    for options in (CopyOptions(), CopyOptions(overwrite=False)):
        with pytest.raises(InvalidPath):
            store.move("y", "folder", options)
    assert peek(store, "y") == b"data"


def test_a_name_that_looks_like_a_sas_is_no_other_name(folders):
    store, _ = folders
    put(store, "a")
    with pytest.raises(InvalidPath, match="SAS"):
        store.move("a", "d/x?sv=2020-01-01&sig=1")
    assert [info.path for info in store.list()] == ["a"]
    put(store, "d/x?sv=2020-01-01&sig=1", b"odd")
    store.move("d/x?sv=2020-01-01&sig=1", "b")
    assert ops.read_bytes(store, "b") == b"odd"
