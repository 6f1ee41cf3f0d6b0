"""Wrappers keep every promise of what they wrap, over an extended and over a basic-only backend."""

from omnistorage.testing import Chunky, Flaky, Full, Slow, WrapperTests
from omnistorage.wrappers._base import Wrapper


class Plain(Wrapper):
    """Forwards everything and changes nothing."""


class Clears(Wrapper):
    """Takes away what can be taken away."""

    clears = frozenset({"range_read", "create_only", "user_metadata", "if_match", "purge", "set_modified", "copy"})


class TestClearingWrapper(WrapperTests):
    def wrap(self, inner):
        return Clears(inner)


class TestPlainWrapper(WrapperTests):
    def wrap(self, inner):
        return Plain(inner)


class TestFlakyThatNeverFires(WrapperTests):
    def wrap(self, inner):
        return Flaky(inner, at=10**9)


class TestChunky(WrapperTests):
    def wrap(self, inner):
        return Chunky(inner, size=997)


class TestFullWithRoom(WrapperTests):
    def wrap(self, inner):
        return Full(inner, capacity=1 << 40)


class TestSlowThatDoesNotWait(WrapperTests):
    def wrap(self, inner):
        return Slow(inner, wait=lambda op: None)
