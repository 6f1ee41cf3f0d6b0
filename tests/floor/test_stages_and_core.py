"""Chains, batches, limits; options, powers and the questions asked of a backend."""

import pickle
from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ops
from omnistorage.backends.memory import MemoryBackend
from omnistorage.compression.gzip import Gzip
from omnistorage.core import (
    POWERS,
    Append,
    Backend,
    CopyOptions,
    ExtendedBackend,
    Features,
    ListOptions,
    ObjectInfo,
    Presign,
    Purge,
    ReadOptions,
    WriteOptions,
    as_extended,
    features_of,
    power,
)
from omnistorage.core.stages import Batch, Chain, Limit, StageBase
from omnistorage.core.structural import has_shape, names_of
from omnistorage.errors import CapabilityNotSupported, ConfigError, CorruptData, StorageError
from omnistorage.formats.lines import Lines
from omnistorage.testing import BasicBackend
from omnistorage.wrappers.base import Wrapper


class Double(StageBase):
    """Yields each item twice; remembers how many outputs were asked for."""

    def __init__(self):
        self.made = 0

    def _feed(self, item):
        for _ in range(2):
            self.made += 1
            yield item

    def _finish(self):
        yield b"end"


def test_a_chain_is_lazy_and_in_order():
    first, second = Double(), Double()
    chain = Chain(first, second)
    outputs = iter(chain.feed(b"x"))
    assert next(outputs) == b"x"
    assert (first.made, second.made) == (1, 1)
    assert list(outputs) == [b"x"] * 3
    assert list(chain.finish()) == [b"end", b"end", b"end"]


def test_a_chain_of_codec_and_format_decodes():
    codec, lines = Gzip(), Lines()
    encode = Chain(lines.encoder(), codec.encoder())
    raw = b"".join([*encode.feed([b"a", b"b"]), *encode.finish()])
    decode = Chain(codec.decoder(), lines.decoder())
    assert [*decode.feed(raw), *decode.finish()] == [[b"a", b"b"]]


@pytest.mark.parametrize("call", ["feed", "flush", "finish"])
def test_a_stage_whose_output_was_not_read_is_poisoned(call):
    stage = Double()
    stage.feed(b"x")
    with pytest.raises(StorageError, match="not read to the end"):
        getattr(stage, call)(*([b"y"] if call == "feed" else []))


def test_nothing_follows_finish():
    stage = Double()
    list(stage.finish())
    with pytest.raises(StorageError, match="finished"):
        stage.feed(b"x")


@given(st.lists(st.binary(max_size=50)), st.integers(1, 64))
def test_a_batch_keeps_every_byte_and_makes_full_blocks(parts, size):
    stage = Batch(size)
    blocks = [block for part in parts for block in stage.feed(part)]
    assert all(len(block) >= size for block in blocks)
    assert b"".join([*blocks, *stage.finish()]) == b"".join(parts)


def test_goal_17_a_limit_stops_a_bomb_within_one_chunk():
    encoder = Gzip().encoder()
    bomb = b"".join([*encoder.feed(b"\0" * (64 << 20)), *encoder.finish()])
    ratio = {"max_ratio": 100, "ratio_after": 1 << 20}
    for limits, bound in (({"max_output": 1 << 20}, 1 << 20), (ratio, 100 * len(bomb))):
        made = 0
        with pytest.raises(CorruptData, match="trust"):
            for out in Limit(Gzip().decoder(), **limits).feed(bomb):
                made += len(out)
        assert made <= bound + (1 << 20)


def test_a_limit_lets_honest_data_through():
    encoder = Gzip().encoder()
    raw = b"".join([*encoder.feed(b"abc" * 1000), *encoder.finish()])
    limit = Limit(Gzip().decoder(), max_output=3000, max_ratio=10)
    assert b"".join([*limit.feed(raw), *limit.flush(), *limit.finish()]) == b"abc" * 1000


# --- core -------------------------------------------------------------------------------------------------------------


def test_object_info_is_a_value():
    info = ObjectInfo("a/b.txt", 5, hashes={"md5": "00"})
    assert (info.name, info.is_dir, info.hash("md5"), info.hash("sha256")) == ("b.txt", False, "00", None)
    assert pickle.loads(pickle.dumps(info)) == info
    assert ObjectInfo("x").hash("md5") is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReadOptions(offset=-1),
        lambda: ReadOptions(length=-1),
        lambda: WriteOptions(user_metadata={"Upper": "x"}),
        lambda: WriteOptions(user_metadata={"k": "line\nbreak"}),
        lambda: WriteOptions(user_metadata={"k": "x" * 3000}),
        lambda: WriteOptions(modified_at=datetime(2020, 1, 1)),
        lambda: WriteOptions(overwrite=False, if_match="x"),
        lambda: CopyOptions(overwrite=False, if_match="x"),
        lambda: CopyOptions(user_metadata={"": "x"}),
    ],
)
def test_options_that_cannot_be_meant_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_flags_are_the_boolean_fields():
    assert len(Features.flags()) == 20
    assert "case_sensitive" not in Features.flags()


class NoPurge(Wrapper):
    adapts = frozenset(POWERS) - {Purge}
    clears = frozenset({"copy"})


def test_a_power_is_asked_of_the_outermost_only():
    inner = MemoryBackend()
    assert power(inner, Purge) is inner
    assert power(inner, Presign) is None
    wrapped = NoPurge(inner)
    assert power(wrapped, Purge) is None
    assert power(wrapped, Append) is wrapped
    assert power(Wrapper(wrapped), Purge) is None
    assert wrapped.features.purge is False
    assert wrapped.features.append is True
    with pytest.raises(CapabilityNotSupported):
        wrapped.purge("x")
    with pytest.raises(CapabilityNotSupported):
        wrapped.copy("a", "b")


def test_as_extended_is_truthful_through_wrappers():
    assert as_extended(MemoryBackend()) is not None
    assert as_extended(Wrapper(MemoryBackend())) is not None
    assert as_extended(BasicBackend()) is None
    assert as_extended(Wrapper(Wrapper(BasicBackend()))) is None
    assert features_of(BasicBackend()).list
    assert not features_of(BasicBackend()).stat


def test_extended_is_the_backend_itself_or_a_view_that_refuses():
    full, basic = MemoryBackend(), BasicBackend()
    assert ops.extended(full) is full
    view = ops.extended(basic)
    for call in (
        lambda: view.stat("x"),
        lambda: view.list_dir(),
        lambda: view.mkdir("x"),
        lambda: view.rmdir("x"),
        lambda: view.copy("a", "b"),
        lambda: view.move("a", "b"),
    ):
        with pytest.raises(CapabilityNotSupported):
            call()
    assert power(view, Purge) is None
    ops.write_bytes(view, "x", b"1")
    assert ops.read_bytes(basic, "x") == b"1"
    assert view.exists("x")
    assert view.delete("x")
    view.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReadOptions(offset="5"),
        lambda: ReadOptions(offset=1.5),
        lambda: ReadOptions(length="5"),
        lambda: ReadOptions(offset=None),
        lambda: ListOptions(start_after=5),
        lambda: ListOptions(start_after=b"a"),
        lambda: WriteOptions(expect={"md5": 5}),
        lambda: WriteOptions(expect={"md5": b"00"}),
        lambda: WriteOptions(expect={"md5": None}),
        lambda: WriteOptions(expect={"md5": "no hex"}),
        lambda: WriteOptions(expect={"md5": ""}),
        lambda: WriteOptions(expect={5: "00"}),
        lambda: WriteOptions(expect={"shake_128": "00"}),
        lambda: WriteOptions(expect={"SHAKE256": "00"}),
    ],
)
def test_options_of_a_wrong_kind_are_config_errors(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("kind", [*POWERS, Backend, ExtendedBackend], ids=lambda kind: kind.__name__)
def test_a_shape_is_what_isinstance_says(kind):
    names = names_of(kind)
    assert names
    for missing in (None, *names):
        value = SimpleNamespace(**{name: print for name in names if name != missing})
        assert has_shape(value, kind) is isinstance(value, kind) is (missing is None)


def test_an_attribute_of_a_shape_may_be_none():
    value = SimpleNamespace(**{**dict.fromkeys(names_of(ExtendedBackend), print), "url": None})
    assert isinstance(value, ExtendedBackend)
    assert has_shape(value, ExtendedBackend)
