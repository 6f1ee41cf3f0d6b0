"""What an argument names: an object or a folder."""

from __future__ import annotations

from omnistorage.cli.core.app import Location
from omnistorage.core import ObjectInfo
from omnistorage.errors import NotFound


def info_of(at: Location) -> ObjectInfo:
    """What the store says about an object; a backend without ``stat`` says it when the object is opened."""
    if at.backend.features.stat:
        return at.backend.stat(at.path)
    with at.backend.open_reader(at.path) as reader:
        return reader.info


def is_folder(at: Location) -> bool:
    """Whether there is such a folder, or anything below that prefix. False where nothing can be listed."""
    backend = at.backend
    if not backend.features.list:
        return False
    try:
        if not backend.features.stat:  # a basic one lists flat only
            return next(iter(backend.list(at.path)), None) is not None
        next(iter(backend.list_dir(at.path)), None)
    except NotFound:
        return False
    return True
