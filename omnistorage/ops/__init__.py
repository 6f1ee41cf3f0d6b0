"""What can be done with any two backends: walk, copy, move, read and write whole objects, sorted listings."""

from __future__ import annotations

from omnistorage.core.external_sort import from_plain, plain, sort_entries

from .operations import (
    BasicView,
    children,
    copy,
    extended,
    glob,
    lists_folders,
    move,
    read_at_most,
    read_bytes,
    same_place,
    sorted_list,
    transfer,
    walk,
    write_bytes,
)

__all__ = [
    "BasicView",
    "children",
    "copy",
    "extended",
    "from_plain",
    "glob",
    "lists_folders",
    "move",
    "plain",
    "read_at_most",
    "read_bytes",
    "same_place",
    "sort_entries",
    "sorted_list",
    "transfer",
    "walk",
    "write_bytes",
]
