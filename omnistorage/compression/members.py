"""What bz2 and xz share: streams of members made and read by Python's own bz2 and lzma modules.

Both modules have the same two classes: a decompressor of one member, which bounds its output and hands back what stands
behind the member, and a compressor that can only end its member. Here are the stages around them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from omnistorage.core.stages import MAX_CHUNK, StageBase
from omnistorage.errors import CorruptData

_SLICE = 1 << 18  # input goes to the libraries in slices: that bounds what one call makes, and what they copy of it


class MemberEncoder(StageBase[bytes, bytes]):
    """Writes one member. The libraries cannot make what was fed so far readable and go on, so ``flush`` ends the member
    and what is fed later begins another."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._member: Any = make()  # None: the last one is ended and the next not begun
        self._fed = False

    def _feed(self, item: bytes) -> Iterator[bytes]:
        if not item:
            return
        if self._member is None:
            self._member = self._make()
        self._fed = True
        compress = self._member.compress
        view = memoryview(item).cast("B")
        for at in range(0, len(view), _SLICE):
            yield from _cut(compress(view[at : at + _SLICE]))

    def _flush(self) -> Iterator[bytes]:
        if self._fed:
            yield from self._finish()

    def _finish(self) -> Iterator[bytes]:
        if self._member is not None:
            member, self._member, self._fed = self._member, None, False
            yield from _cut(member.flush())


def _cut(out: bytes) -> Iterator[bytes]:
    if len(out) <= MAX_CHUNK:
        if out:
            yield out
        return
    for at in range(0, len(out), MAX_CHUNK):
        yield out[at : at + MAX_CHUNK]


class MemberDecoder(StageBase[bytes, bytes]):
    """Reads members to the end. ``padding`` is the multiple in which zero bytes may stand behind a member, 0 if they
    may not; ``explain`` turns what the library raised into the words of a ``CorruptData``."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        errors: tuple[type[Exception], ...],
        *,
        padding: int = 0,
        explain: Callable[[Exception], object] = lambda error: error,
        check: Callable[[Any], str] = lambda member: "",
    ) -> None:
        self._name = name
        self._make = make
        self._errors = errors
        self._padding = padding
        self._explain = explain
        self._check = check
        self._member: Any = None  # the library's decoder of the member we are in, None between members
        self._members = 0
        self._zeros = 0  # zero bytes behind the last member
        self._step = 0  # how much of the input the library is shown next
        self._taken = 0  # bytes of all earlier chunks, for offsets

    def _feed(self, item: bytes) -> Iterator[bytes]:
        view = memoryview(item).cast("B")
        at, size = 0, len(view)
        while at < size:
            if self._member is not None:
                at = yield from self._body(view, at)
            elif self._padding and self._members and not view[at]:
                run = bytes(view[at : at + 4096])
                zeros = len(run) - len(run.lstrip(b"\0"))
                self._zeros += zeros
                at += zeros
            else:
                self._check_padding(at)
                self._member, self._step, self._zeros = self._make(), 512, 0
        self._taken += size

    def _finish(self) -> Iterator[bytes]:
        if self._member is not None:
            behind = ", or what stands behind the last one is none" if self._members else ""
            raise self._corrupt(f"the stream is cut off within a member{behind}", 0)
        if not self._members:
            raise self._corrupt("the stream is empty; even of nothing a member is some bytes", 0)
        self._check_padding(0)
        return iter(())

    def _check_padding(self, at: int) -> None:
        if self._padding and self._zeros % self._padding:
            raise self._corrupt(
                f"zero bytes behind a member come in multiples of {self._padding}, here are {self._zeros}", at
            )

    def _body(self, view: memoryview, at: int) -> Generator[bytes, None, int]:
        """Decode ``view[at:]`` to the end of the member or of the input; returns where that is."""
        member, size = self._member, len(view)
        while True:
            piece: bytes | memoryview = view[at : at + self._step] if member.needs_input else b""
            try:
                out = member.decompress(piece, MAX_CHUNK)
            except self._errors as error:
                where = "behind the last member there is something else, or it is damaged: " if self._members else ""
                raise self._corrupt(f"{where}{self._explain(error)}", at) from error
            at += len(piece)
            if out:
                yield out
            if member.eof:
                if wrong := self._check(member):
                    raise self._corrupt(wrong, at)
                self._member = None
                self._members += 1
                return at - len(member.unused_data)
            # The library copies what stands behind a member. Growing steps keep that small when members are tiny.
            self._step = min(self._step * 4, _SLICE)
            if at == size and member.needs_input:
                return at

    def _corrupt(self, what: object, at: int) -> CorruptData:
        return CorruptData(f"{self._name}: {what}", offset=self._taken + at)
