"""Names that a sorted listing has passed and below which something may still come. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Passed(Generic[T]):
    """Names that were passed and below which something may still come, each with a value."""

    def __init__(self) -> None:
        self._names: list[tuple[bytes, bytes, T]] = []

    def push(self, key: bytes, value: T) -> None:
        self._names.append((key + b"/", key + b"0", value))  # "0" follows "/"

    def leave(self, key: bytes | None) -> Iterator[T]:
        """Drop what cannot have anything below it any more now that ``key`` has come (None: the end), last first."""
        names = self._names
        while names and (key is None or key >= names[-1][1]):
            yield names.pop()[2]

    def at(self, key: bytes) -> list[T]:
        """The value of the name ``key``."""
        return [value for head, _, value in self._names if head[:-1] == key]

    def above(self, key: bytes) -> list[T]:
        """The values of the names that ``key`` lies below."""
        return [value for head, _, value in self._names if key.startswith(head)]
