"""What is known of the content of two objects: digests that a store states, or that reading a file gives."""

from __future__ import annotations

from typing import Literal

from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import check
from omnistorage.core import ObjectInfo
from omnistorage.sync.endpoint import Side

EQUAL = "equal"
STRONGEST = ("sha512", "sha256", "sha1", "md5", "crc32c")
Read = Literal["nothing", "files", "one side", "both sides"]
_FOR_BOTH = "sha256"
_BLOCK = 1 << 20
_REMEMBERED = 200_000


class Content:
    """Compares the content of the objects of ``src`` and ``dst``.

    Some digests were only noted when the object was written (``Features.kept_hashes``). They count if ``trusts_kept``;
    otherwise the objects are read, as local files are.
    """

    def __init__(self, src: Side, dst: Side, *, trusts_kept: bool = True) -> None:
        self.src, self.dst = src, dst
        self._trusts_kept = trusts_kept or not (src.features.kept_hashes or dst.features.kept_hashes)
        one, other = (side.features.hashes - self._untrusted(side) for side in (src, dst))
        self._files = tuple(side.local is not None or bool(self._untrusted(side)) for side in (src, dst))
        self.stated = bool(one & other)
        """Whether both stores state digests by a common algorithm, at least for some objects."""
        self.known = self.stated or all(self._files) or bool((self._files[0] and other) or (self._files[1] and one))
        """Whether the digests of some objects can be compared, if local files are read."""
        self.remembered: dict[tuple[str, str, str], str] | None = None
        """Digests that were computed, where each object is compared with several others."""

    def verdict(self, a: ObjectInfo, b: ObjectInfo, read: Read) -> str | None:
        """Compare the digests of two objects.

        Args:
            a: The source's object, with the digests that its store states.
            b: The destination's.
            read: What may be read to compute a digest that is not stated: files of the local file system (and objects
                whose digests are not trusted), the one side that states none, or both sides.

        Returns:
            ``EQUAL``, the reason why they differ, or None if no digest can be compared.

        Raises:
            StorageError: An object cannot be read.
        """
        if read == "both sides" or not self._trusts_kept:
            a, b = without_kept(a, self.src), without_kept(b, self.dst)
        verdict = same_digest(a, b)
        if verdict is not None or read == "nothing":
            return verdict
        allowed = self._files if read == "files" else (True, True)
        for name in STRONGEST:
            first, second = a.hash(name), b.hash(name)
            if ((first and allowed[1]) or (second and allowed[0])) and _is_computable(name):
                return self._compared(name, first or self._of_src(a, name), second or self._of_dst(b, name))
        if read == "both sides" or all(self._files):
            return self._compared(_FOR_BOTH, self._of_src(a, _FOR_BOTH), self._of_dst(b, _FOR_BOTH))
        return None

    def same_digest(self, a: ObjectInfo, b: ObjectInfo) -> str | None:
        """The verdict by a digest that both stores state of what they hold; None if there is none."""
        if self._trusts_kept:
            return same_digest(a, b)
        return same_digest(without_kept(a, self.src), without_kept(b, self.dst))

    def _untrusted(self, side: Side) -> frozenset[str]:
        return frozenset() if self._trusts_kept else side.features.kept_hashes

    def _of_src(self, info: ObjectInfo, name: str) -> str:
        return self._computed(self.src, info.path, name)

    def _of_dst(self, info: ObjectInfo, name: str) -> str:
        return self._computed(self.dst, info.path, name)

    def _computed(self, side: Side, key: str, name: str) -> str:
        if self.remembered is None:
            return digest(side, key, name)
        found = self.remembered.get((side.role, key, name))
        if found is None:
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.clear()
            found = self.remembered[side.role, key, name] = digest(side, key, name)
        return found

    def _compared(self, name: str, first: str, second: str) -> str:
        return EQUAL if first == second else f"the {name} differs"


def _is_computable(name: str) -> bool:
    try:
        new_hash(name)
    except ImportError:  # crc32c needs a library that not every installation has
        return False
    return True


def without_kept(info: ObjectInfo, side: Side) -> ObjectInfo:
    """``info`` without digests that were only noted when the object was written: what is there now may differ."""
    kept = side.features.kept_hashes
    if not kept or not info.hashes:
        return info
    return info._replace(hashes={name: value for name, value in info.hashes.items() if name not in kept})


def same_digest(a: ObjectInfo, b: ObjectInfo) -> str | None:
    """The verdict by a digest that both state; None if there is none."""
    if not a.hashes or not b.hashes:
        return None
    for name in STRONGEST:
        first = a.hashes.get(name)
        second = b.hashes.get(name)
        if first and second:
            return EQUAL if first == second else f"the {name} differs"
    return None


def digest(side: Side, key: str, name: str) -> str:
    """The digest of an object of one side, by reading it. Raises ``StorageError``."""
    running = new_hash(name)
    with side.backend.open_reader(key) as reader:
        while block := reader.read(_BLOCK):
            check("digest", key)
            running.update(block)
    return str(running.hexdigest())
