"""Wrappers keep every promise of what they wrap, over an extended and over a basic-only backend."""

import pytest

from omnistorage import CapabilityNotSupported, MemoryBackend
from omnistorage.testing import Chunky, Flaky, Full, Slow, WrapperTests
from omnistorage.wrappers.base import Wrapper


class Plain(Wrapper):
    """Forwards everything and changes nothing."""


class Clears(Wrapper):
    """Takes away what can be taken away."""

    clears = frozenset({"range_read", "create_only", "user_metadata", "if_match", "purge", "set_modified", "copy"})


@pytest.mark.ci_only
class TestClearingWrapper(WrapperTests):
    def wrap(self, inner):
        return Clears(inner)


class TestPlainWrapper(WrapperTests):
    def wrap(self, inner):
        return Plain(inner)


@pytest.mark.ci_only
class TestFlakyThatNeverFires(WrapperTests):
    def wrap(self, inner):
        return Flaky(inner, at=10**9)


@pytest.mark.ci_only
class TestChunky(WrapperTests):
    def wrap(self, inner):
        return Chunky(inner, size=997)


@pytest.mark.ci_only
class TestFullWithRoom(WrapperTests):
    def wrap(self, inner):
        return Full(inner, capacity=1 << 40)


@pytest.mark.ci_only
class TestSlowThatDoesNotWait(WrapperTests):
    def wrap(self, inner):
        return Slow(inner, wait=lambda op: None)


def test_a_refusal_names_the_wrapper_that_refuses_and_not_the_backend_that_could():
    with pytest.raises(CapabilityNotSupported, match=r"Clears\(.*MemoryBackend.*\) does not support purge") as caught:
        Plain(Clears(MemoryBackend())).purge("folder")
    assert (caught.value.capability, caught.value.backend) == ("purge", "memory")
