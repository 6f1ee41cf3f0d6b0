"""The conformance kit, fault wrappers and test doubles, shipped so that third parties prove their own members.

Needs ``pip install "omnistorage[testing]"`` (pytest and hypothesis). Names load when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "BackendTests": "backends",
    "BasicBackend": "basic",
    "Chunky": "faults",
    "CodecTests": "codecs",
    "Faulty": "faults",
    "Flaky": "faults",
    "FormatTests": "formats",
    "Full": "faults",
    "Kit": "_kit",
    "Slow": "faults",
    "WrapperTests": "backends",
    "backend_machine": "stateful",
    "failures": "backends",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
