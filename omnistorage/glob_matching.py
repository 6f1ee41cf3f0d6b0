"""Matching of parsed patterns in linear time: as a regular expression that does not backtrack, or by an automaton.

A pattern is a list of items. An item is the regular expression of exactly one character, ``STAR`` (any run of
characters but "/"), ``STARS`` (any run), ``FOLDERS`` (nothing, or any run that ends with "/"), or a ``Group`` of lists
of items, one of which matches. For ``plain_expression`` an item may be any regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

STAR, STARS, FOLDERS = "[^/]*", ".*", "(?:.*/)?"
_ANY = "."
_MANY = 64
"""How many alternatives a regular expression may have."""
_CACHED = 512
"""How many steps an automaton remembers."""


class Group(tuple["list[Item]", ...]):
    """Alternatives."""

    __slots__ = ()


Item = str | Group


def plain_expression(items: Sequence[Item]) -> str:
    """The regular expression of ``items``, whatever time it takes."""
    return _joined([item if isinstance(item, str) else _either(map(plain_expression, item)) for item in items])


def linear_expression(items: Sequence[Item]) -> str | None:
    """A regular expression of ``items`` that takes linear time; None if this module knows none."""
    text = _linear(_merged(items))
    if text is not None:
        return text
    options = _options(items)
    if options is None:
        return None
    texts = [_linear(_merged(option)) for option in options]
    return None if None in texts else _either(text for text in texts if text is not None)


def _either(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(texts)})"


def _options(items: Sequence[Item]) -> list[list[Item]] | None:
    """``items`` without groups, once for each choice among their alternatives; None if there are too many."""
    found: list[list[Item]] = [[]]
    for item in items:
        choices: list[list[Item]] = [[item]] if isinstance(item, str) else []
        for branch in item if isinstance(item, Group) else ():
            options = _options(branch)
            if options is None:
                return None
            choices += options
        if len(found) * len(choices) > _MANY:
            return None
        found = [[*one, *choice] for one in found for choice in choices]
    return found


def _merged(items: Sequence[Item]) -> list[Item]:
    """The same with one star where several come together, of which the one that reaches furthest is left."""
    stars = (STAR, STARS, FOLDERS)
    out: list[Item] = []
    for item in items:
        if not out or item not in stars or out[-1] not in stars:
            out.append(item)
        elif STARS in (item, out[-1]):
            out[-1] = STARS
        elif item != out[-1]:
            out.append(item)
    return out


# --- regular expressions ----------------------------------------------------------------------------------------------
#
# STARS and FOLDERS cut a pattern into blocks. A block that is followed by one of them may be taken at the first place
# where it matches, as from there that one reaches at least as far as from any later place: the block is matched lazily,
# in an atomic group. The last block must reach the end of the text. A block that begins behind a slash is tried
# once for each folder, and reads no more than its own segments. A block that begins anywhere must hold no star, or the
# rest of the segment would be read from each of its characters.


def _linear(items: list[Item]) -> str | None:
    crosses = [at for at, item in enumerate(items) if item in (STARS, FOLDERS)]
    out: list[str] = []
    for at, end in zip([-1, *crosses], [*crosses, len(items)], strict=True):
        cross = items[at] if at >= 0 else ""
        assert isinstance(cross, str)
        block, is_last = items[at + 1 : end], end == len(items)
        anywhere = cross == STARS and bool(block) and block[0] != "/"
        if at < 0 and not block and not is_last:
            continue
        if not _is_fit(block, is_last) or (anywhere and STAR in block):
            return None
        if not is_last:
            lazy = {STARS: ".*?", FOLDERS: "(?:.*?/)??"}.get(cross, "")
            out.append(f"(?>{lazy}{_joined(block, lazy=True)})")
        elif cross == FOLDERS and block and "/" not in block:
            out.append(f"(?:.*/)?+{_joined(block)}")  # nothing else can be behind the last slash
        else:
            out.append(cross + _joined(block))
    return "".join(out)


def _is_fit(block: list[Item], is_last: bool) -> bool:
    """Whether the groups in a block do no harm: they hold fixed text, and no segment has two stars beside one."""
    groups = [item for item in block if isinstance(item, Group)]
    if not groups:
        return True
    many = 1
    for group in groups:
        many *= len(group)
    if not is_last or (many > _MANY and len(groups) > 1):
        return False
    if not all(isinstance(one, str) and one not in (STAR, STARS, FOLDERS, "/") for g in groups for b in g for one in b):
        return False
    stars, grouped = 0, False
    for item in [*block, "/"]:
        if item == "/":
            if grouped and stars > 1:
                return False
            stars, grouped = 0, False
        stars += item == STAR
        grouped = grouped or isinstance(item, Group)
    return True


def _joined(items: Sequence[Item], *, lazy: bool = False) -> str:
    """The items as one expression. Between two stars the first place where it fits is as good as any later one, if the
    second star reaches at least as far as the first."""
    parts = [item if isinstance(item, str) else _either(map("".join, item)) for item in items]  # type: ignore[arg-type]
    out: list[str] = []
    at = 0
    while at < len(parts):
        star = parts[at]
        end = at + 1
        while end < len(parts) and _is_one(parts[end]):
            end += 1
        follows = parts[end] if end < len(parts) else ""
        if star in (STAR, STARS) and end > at + 1 and follows in (STARS, star):
            out.append(f"(?>{star}?{''.join(parts[at + 1 : end])})")
            at = end
        else:
            out.append(f"{star}?" if lazy and star == STAR else star)
            at += 1
    return "".join(out)


def _is_one(part: str) -> bool:
    """Whether the part matches exactly one character."""
    return part not in (STAR, STARS) and not part.startswith("(?:")


# --- the automaton ----------------------------------------------------------------------------------------------------


class Automaton:
    """Follows all ways through a pattern at once (Thompson's method). A state waits for a character; a set of states is
    a number with a bit for each. Bit 0 is the end of the pattern. ``_after`` has the states behind each state."""

    def __init__(self, items: Sequence[Item], flags: int) -> None:
        self._after = [0]
        self._waiting: dict[str, int] = {}  # by the expression of the character that they wait for
        self._start = self._sequence(items, 1)
        self._expressions = [(re.compile(text, flags).match, states) for text, states in self._waiting.items()]
        self._known: dict[tuple[int, str], int] = {}

    def _state(self, text: str) -> int:
        state = 1 << len(self._after)
        self._after.append(0)
        self._waiting[text] = self._waiting.get(text, 0) | state
        return state

    def _sequence(self, items: Sequence[Item], end: int) -> int:
        """The states in which the items begin, if ``end`` are those behind them."""
        for item in reversed(items):
            if isinstance(item, Group):
                here = 0
                for branch in item:
                    here |= self._sequence(branch, end)
                end = here
            elif item in (STAR, STARS):
                state = self._state("[^/]" if item == STAR else _ANY)
                end |= state
                self._after[-1] = end
            elif item == FOLDERS:
                slash = self._state("/")
                self._after[-1] = end
                any_ = self._state(_ANY)
                self._after[-1] = any_ | slash
                end |= any_ | slash
            else:
                state = self._state(item)
                self._after[-1] = end
                end = state
        return end

    def fullmatch(self, text: str, /) -> object:
        """True if the whole of ``text`` matches, else None."""
        now, known = self._start, self._known
        for char in text:
            following = known.get((now, char))
            if following is None:
                following = self._step(now, char)
                if len(known) == _CACHED:
                    known.clear()
                known[now, char] = following
            if not following:
                return None
            now = following
        return True if now & 1 else None

    def _step(self, now: int, char: str) -> int:
        """The states behind those that wait for ``char``."""
        moving = 0
        for match, states in self._expressions:
            if now & states and match(char):
                moving |= now & states
        following = 0
        while moving:
            state = moving.bit_length() - 1
            following |= self._after[state]
            moving ^= 1 << state
        return following
