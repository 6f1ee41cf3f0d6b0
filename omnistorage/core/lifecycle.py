"""What leaving ``with`` means for readers and writers, once."""

from __future__ import annotations

from typing import Self

from omnistorage.errors import StorageError


class Closes:
    """``with``: whichever way the block ends, ``close``."""

    def close(self) -> object:
        raise TypeError(f"{type(self).__name__} does not define close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Publishes:
    """``with``: a clean end closes, which publishes; an exception aborts, and is the one that is seen."""

    def close(self) -> object:
        raise TypeError(f"{type(self).__name__} does not define close")

    def abort(self) -> None:
        raise TypeError(f"{type(self).__name__} does not define abort")

    def _on_exception(self) -> None:
        """What an exception in the block does."""
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not exc or exc[0] is None:
            self.close()
            return
        try:
            self._on_exception()
        except StorageError:
            pass  # the exception that brought us here is the one to see
