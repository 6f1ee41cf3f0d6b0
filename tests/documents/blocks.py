"""The code blocks of README and of the pages below ``docs/``, as the tests run them.

The first word behind the fence says what a block is:

* ``python`` and ``sh`` run, in the order of the page, in one process per page.
* ``text`` right behind one of them is what that block prints. ``...`` stands for any text.
* ``toml``, ``yaml``, ``sql``, ``csv`` and ``json`` are files. The second word, if any, is the name that the file gets
  in the working folder, so that the blocks behind it can use it.
* ``sh install`` shows installation. It is the one kind that does not run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FILES = ("toml", "yaml", "sql", "csv", "json")
KNOWN = {"python", "sh", "sh install", "text", ""}
INSTALLS = re.compile(
    r"(git clone|cd|pip install|python -m venv|\. \.venv|\./scripts/(demo|test|check|bench))\b[^;&|]*"
)
"""What each line of a block that shows installation looks like."""


class Block(NamedTuple):
    page: str
    line: int
    """Number of the fence's line, from 1."""
    kind: str
    text: str


def pages() -> list[str]:
    """The pages whose blocks run, relative to the repository."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/guides/*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """All code blocks of a page. Raises ``AssertionError`` for a fence that is not closed."""
    found: list[Block] = []
    kind, begin, lines = "", 0, []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif begin:
            assert line == "```", f"{page}:{number}: a fence inside of the block of line {begin}"
            found.append(Block(page, begin, kind, "\n".join(lines) + "\n"))
            begin = 0
        else:
            kind, begin, lines = line[3:].strip(), number, []
    assert not begin, f"{page}:{begin}: the block has no end"
    return found
