"""The keys of Encrypt: where they come from, how they are rotated, and that nothing ever shows them."""

import base64
import pickle
import sys
import threading
import traceback
from datetime import UTC, datetime

import pytest

from omnistorage import (
    ConfigError,
    CorruptData,
    Encrypt,
    LocalBackend,
    MemoryBackend,
    MissingExtra,
    PreconditionFailed,
    Secret,
    ops,
)
from omnistorage.core import WriteOptions
from omnistorage.testing import BasicBackend
from omnistorage.testing._kit import payload
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT
from .encrypt_spec import decode, encode

OLD, NEW = payload(32, "the old key"), payload(32, "the new key")
CONTENT = payload(200_000)


def shown(key):
    """Every form in which a key might be printed."""
    texts = [
        key.hex(),
        base64.b64encode(key).decode(),
        base64.urlsafe_b64encode(key).decode(),
        repr(key),
        repr(key)[2:-1],
    ]
    return [*texts, key.hex().upper()]


def test_a_key_is_given_as_bytes_or_as_a_secret_in_hexadecimal_or_base64(tmp_path, monkeypatch):
    inner = MemoryBackend()
    inner.put_raw("x", encode(NEW, CONTENT))
    (tmp_path / "key").write_text(base64.b64encode(NEW).decode() + "\n")
    monkeypatch.setenv("OMNISTORAGE_TEST_KEY", NEW.hex())
    for key in (
        NEW,
        Secret(NEW.hex()),
        Secret(NEW.hex().upper()),
        Secret(base64.b64encode(NEW).decode()),
        Secret(base64.urlsafe_b64encode(NEW).decode().rstrip("=")),
        Secret.env("OMNISTORAGE_TEST_KEY"),
        Secret.file(str(tmp_path / "key")),
        Secret.command([sys.executable, "-c", f"print('{NEW.hex()}')"]),
        {"default": NEW},
    ):
        assert ops.read_bytes(Encrypt(inner, key), "x") == CONTENT


@pytest.mark.parametrize(
    ("keys", "options", "what"),
    [
        (OLD[:31], {}, "31 bytes"),
        (OLD + b"x", {}, "33 bytes"),
        (OLD.hex(), {}, "not str"),
        (bytearray(OLD), {}, "not bytearray"),
        (None, {}, "not NoneType"),
        ({}, {}, "which of 0 keys"),
        ({"a": OLD, "b": NEW}, {}, "which of 2 keys"),
        ({"a": OLD}, {"key_id": "b"}, "no key 'b'"),
        ({"a": OLD[:5]}, {}, "'a' has 5 bytes"),
        ({"a b": OLD}, {}, "without spaces"),
        ({"": OLD}, {}, "1 to 32"),
        ({"é": OLD}, {}, "ASCII"),
        ({"k" * 33: OLD}, {}, "1 to 32"),
        ({5: OLD}, {}, "not 5"),
        (OLD, {"key_id": "new\n"}, "printable"),
    ],
)
def test_what_is_no_key_is_refused_at_once(keys, options, what):
    with pytest.raises(ConfigError, match=what) as caught:
        Encrypt(MemoryBackend(), keys, **options)
    assert not any(text in str(caught.value) for text in shown(OLD))


@pytest.mark.parametrize("text", ["", "short", "zz" * 32, OLD.hex()[:-1], OLD.hex() + "00", "!" * 43, "a" * 42])
def test_a_secret_that_is_no_key_is_refused_when_it_is_needed_and_not_shown(text):
    store = Encrypt(MemoryBackend(), {"mine": Secret(text)})
    with pytest.raises(ConfigError, match="'mine' is not 32 bytes in hexadecimal or base64") as caught:
        store.open_writer("x")
    assert not text or text not in "".join(traceback.format_exception(caught.value))


def test_a_secret_that_cannot_be_had_says_so_when_it_is_needed(monkeypatch):
    monkeypatch.delenv("OMNISTORAGE_NO_KEY", raising=False)
    inner = MemoryBackend()
    store = Encrypt(inner, Secret.env("OMNISTORAGE_NO_KEY"))
    assert list(store.list()) == []
    with pytest.raises(ConfigError, match="OMNISTORAGE_NO_KEY"):
        store.open_writer("x")
    assert "OMNISTORAGE_NO_KEY" not in repr(store)


def test_another_key_of_the_same_name_is_corrupt_data_that_names_it():
    inner = MemoryBackend()
    ops.write_bytes(Encrypt(inner, OLD), "x", CONTENT)
    with pytest.raises(CorruptData, match="the key 'default' is not the one") as caught:
        ops.read_bytes(Encrypt(inner, NEW), "x")
    assert (caught.value.path, caught.value.offset) == ("x", 80)


def test_a_key_that_is_not_there_is_a_config_error_that_names_it():
    inner = MemoryBackend()
    ops.write_bytes(Encrypt(inner, OLD, key_id="2025"), "x", CONTENT)
    with pytest.raises(ConfigError, match=r"the key '2025'; there are the keys \['2026'\]") as caught:
        Encrypt(inner, NEW, key_id="2026").open_reader("x")
    assert caught.value.path == "x"


# -- rotation ----------------------------------------------------------------------------------------------------------


def test_old_keys_stay_readable_and_new_writes_take_the_current_one():
    inner = MemoryBackend()
    ops.write_bytes(Encrypt(inner, OLD, key_id="2025"), "old", CONTENT)
    store = Encrypt(inner, {"2025": OLD, "2026": NEW}, key_id="2026")
    ops.write_bytes(store, "new", CONTENT)
    assert ops.read_bytes(store, "old") == ops.read_bytes(store, "new") == CONTENT
    assert decode(NEW, inner.peek("new")) == CONTENT
    assert inner.peek("new")[8:40] == b"2026".ljust(32, b"\0")


@pytest.mark.parametrize("make", [MemoryBackend, BasicBackend])
def test_a_store_is_rotated_object_by_object(make):
    inner = make()
    before = Encrypt(inner, OLD, key_id="2025")
    for n in range(5):
        ops.write_bytes(before, f"{n}", CONTENT[: n * 50_000])
    store = Encrypt(inner, {"2025": OLD, "2026": NEW}, key_id="2026")
    for info in list(store.list()):
        assert store.reencrypt(info.path).size == info.size
    after = Encrypt(inner, NEW, key_id="2026")
    for n in range(5):
        assert ops.read_bytes(after, f"{n}") == CONTENT[: n * 50_000]
    stored = {f"{n}": inner.peek(f"{n}") for n in range(5)}
    for path, data in stored.items():
        info = store.reencrypt(path)
        assert (info.path, info.size) == (path, len(decode(NEW, data)))
        assert inner.peek(path) is data, "under the current key it is left alone"


def test_a_rotation_keeps_what_the_store_says_of_an_object():
    inner = MemoryBackend()
    when = datetime(2020, 1, 2, tzinfo=UTC)
    options = WriteOptions(content_type="text/plain", user_metadata={"k": "v"}, modified_at=when)
    ops.write_bytes(Encrypt(inner, OLD), "x", CONTENT, options)
    store = Encrypt(inner, {"default": OLD, "new": NEW}, key_id="new")
    info = store.reencrypt("x")
    assert (info.content_type, info.metadata, info.modified_at) == ("text/plain", {"k": "v"}, when)
    assert store.stat("x") == info


class Races(Wrapper):
    """Just before a writer is closed, or prepared, something else is written."""

    at = "close"

    def _writer(self, writer, path):
        if self.then is None:
            return writer
        wait, self.then = self.then, None
        call = getattr(writer, self.at)

        def late():
            wait()
            return call()

        setattr(writer, self.at, late)
        return writer


@pytest.mark.parametrize(("make", "at"), [(MemoryBackend, "close"), (BasicBackend, "prepare")])
def test_a_rotation_never_loses_a_concurrent_write(make, at):
    inner = make()
    ops.write_bytes(Encrypt(inner, OLD), "x", CONTENT)
    races = Races(inner)
    races.at = at
    races.then = lambda: ops.write_bytes(Encrypt(inner, OLD), "x", b"written meanwhile")
    store = Encrypt(races, {"default": OLD, "new": NEW}, key_id="new")
    with pytest.raises(PreconditionFailed) as caught:
        store.reencrypt("x")
    assert caught.value.path == "x"
    assert ops.read_bytes(store, "x") == b"written meanwhile"
    store.reencrypt("x")
    assert decode(NEW, inner.peek("x")) == b"written meanwhile"


def test_a_rotation_of_a_damaged_object_keeps_it():
    inner = MemoryBackend()
    ops.write_bytes(Encrypt(inner, OLD), "x", CONTENT)
    inner.put_raw("x", damaged := inner.peek("x")[:-1])
    with pytest.raises(CorruptData):
        Encrypt(inner, {"default": OLD, "new": NEW}, key_id="new").reencrypt("x")
    assert inner.peek("x") == damaged


# -- nothing shows a key -----------------------------------------------------------------------------------------------


def test_no_key_is_in_any_repr_error_traceback_or_pickle(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNISTORAGE_TEST_KEY", OLD.hex())
    secrets = [text for key in (OLD, NEW) for text in shown(key)]
    inner = LocalBackend(tmp_path)
    store = Encrypt(inner, {"old": Secret.env("OMNISTORAGE_TEST_KEY"), "new": Secret(NEW.hex())}, key_id="new")
    ops.write_bytes(store, "x", CONTENT)
    ops.read_bytes(store, "x")
    texts = [repr(store), str(store), store.url, repr(store._keys), repr(vars(store)), repr(store.open_reader("x"))]
    with pytest.raises(ConfigError) as refused:
        pickle.dumps(store)
    errors = [refused.value]
    (tmp_path / "flipped").write_bytes((tmp_path / "x").read_bytes()[:-1])
    for call in (
        lambda: ops.read_bytes(store, "flipped"),
        lambda: ops.read_bytes(Encrypt(inner, OLD, key_id="new"), "x"),
        lambda: Encrypt(inner, OLD, key_id="other").open_reader("x"),
        lambda: Encrypt(inner, {"a": OLD, "b": NEW}),
        lambda: store.open_appender("x"),
    ):
        with pytest.raises(Exception) as caught:
            call()
        errors.append(caught.value)
    texts += [text for error in errors for text in (str(error), repr(error), *traceback.format_exception(error))]
    for text in texts:
        assert not any(secret in text for secret in secrets), text[:200]
    referring = Encrypt(inner, {"old": Secret.env("OMNISTORAGE_TEST_KEY")})
    ops.write_bytes(referring, "y", b"")  # the key is known now
    dumped = pickle.dumps(referring)
    assert OLD not in dumped
    assert not any(secret.encode() in dumped for secret in secrets)


def test_a_literal_key_pickles_only_where_that_was_asked_for(tmp_path):
    for literal in (OLD, Secret(OLD.hex())):
        with pytest.raises(ConfigError, match="does not pickle"):
            pickle.dumps(Encrypt(LocalBackend(tmp_path), literal))
    store = Encrypt(LocalBackend(tmp_path), Secret(OLD.hex(), pickle=True))
    ops.write_bytes(store, "x", CONTENT)
    assert ops.read_bytes(pickle.loads(pickle.dumps(store)), "x") == CONTENT


def test_without_the_library_the_error_names_the_command(monkeypatch):
    import importlib.util

    from omnistorage.wrappers.encrypt import wrapper as encrypt
    from omnistorage.wrappers.encrypt.format import Chunks, make_header

    find = importlib.util.find_spec
    monkeypatch.setattr(encrypt, "find_spec", lambda name: None if name == "cryptography" else find(name))
    with pytest.raises(MissingExtra, match=r'pip install "omnistorage\[crypt\]"'):
        Encrypt(MemoryBackend(), OLD)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingExtra, match=r'pip install "omnistorage\[crypt\]"'):
        Chunks(OLD, make_header("a", bytes(32), bytes(7)))


def test_an_older_library_that_encrypts_into_no_buffer_writes_the_same(monkeypatch):
    from cryptography.hazmat.primitives.ciphers import aead

    class Older:
        def __init__(self, key):
            aes = _AESGCM(key)
            self.encrypt, self.decrypt = aes.encrypt, aes.decrypt

    _AESGCM = aead.AESGCM
    monkeypatch.setattr(aead, "AESGCM", Older)
    inner = MemoryBackend()
    ops.write_bytes(Encrypt(inner, OLD), "x", CONTENT)
    monkeypatch.undo()
    assert decode(OLD, inner.peek("x")) == CONTENT


def test_the_library_is_loaded_only_when_an_object_is_read_or_written():
    import subprocess

    code = (
        "import sys; from omnistorage import Encrypt, MemoryBackend; store = Encrypt(MemoryBackend(), bytes(32));"
        "list(store.list()); assert not [m for m in sys.modules if m.startswith('cryptography')];"
        "store.open_writer('x').close(); assert 'cryptography' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_threads_share_one_store():
    inner = MemoryBackend()
    store = Encrypt(inner, {"a": Secret(OLD.hex()), "b": Secret(NEW.hex())}, key_id="a")
    failures = []

    def run(number):
        try:
            for _ in range(5):
                ops.write_bytes(store, f"{number}", CONTENT)
                assert ops.read_bytes(store, f"{number}") == CONTENT
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not failures, failures[0]
    assert len({inner.peek(f"{n}")[40:80] for n in range(8)}) == 8, "no salt is used twice"
