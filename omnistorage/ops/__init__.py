"""What can be done with any two backends: walk, copy, move, read and write whole objects, sorted listings."""

from __future__ import annotations

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
    "glob",
    "lists_folders",
    "move",
    "read_at_most",
    "read_bytes",
    "same_place",
    "sorted_list",
    "transfer",
    "walk",
    "write_bytes",
]
