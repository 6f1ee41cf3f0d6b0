"""One grammar of file patterns for all of omnistorage.

The grammar is rclone's, so that the Store's globs and the sync filters mean the same:

*        any run of characters but "/"        [a-z] [^a] [!a]   one of a class, or one not of it (never "/")
    **       any run of characters                {a,b,}            alternatives; they nest and may be empty
    ?        one character but "/"                {{regex}}         a regular expression as it is
    \\d \\s \\w   a digit, white space, part of a word, in ASCII; \\D \\S \\W any other but "/"; alone and in classes
    \\c       any other character c itself

A regular expression ends at the last of the braces that follow each other, ``{{a{2}}}``; flags may stand in front,
``{{(?i)jpe?g}}``. In it ``\\d`` and ``\\w``, and what the case of letters is, are matters of ASCII.
A pattern that starts with "/" binds to the root; without it, it may start after any "/". ``anchored=True`` binds to the
root always, and there ``**/`` also matches no folder at all, as in shells. A pattern always binds to the end.
Matching is on whole keys, case counts unless told otherwise, and "\\n" is a character like any other.

Matching takes time in proportion to the length of the key, whoever wrote the pattern. Only ``{{regex}}`` is matched by
Python's ``re`` as it is, which may take for ever: take patterns with it from people whom you trust.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

from .errors import ConfigError
from .glob_matching import FOLDERS, STAR, STARS, Automaton, Group, Item, linear_expression, plain_expression

_LONGEST = 4096
_DEEPEST = 32

_MAGIC = re.compile(r"[*?\[\]{}\\]")
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_ESCAPED = {
    "d": "0-9",
    "s": "\\t\\n\\f\\r ",
    "w": "0-9A-Za-z_",
    "D": "\\x00-/:-\\U0010ffff",
    "S": "\\x00-\\x08\\x0b\\x0e-\\x1f!-\\U0010ffff",
    "W": "\\x00-/:-@\\[-\\^`{-\\U0010ffff",
}
_RAW = re.compile(r"(?:\(\?([ims]+)\))?(.*)", re.DOTALL)
_RAW_ITEM = re.compile(r"\\.|\[:(\^?\w+):\]|[\[&~|]", re.DOTALL)
_RAW_CLASS = re.compile(r"\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)


def has_magic(pattern: str) -> bool:
    """Whether ``pattern`` is more than a literal path."""
    return _MAGIC.search(pattern) is not None


def escape(path: str) -> str:
    """A pattern that matches ``path`` and nothing else."""
    return _MAGIC.sub(r"\\\g<0>", path)


class CompiledGlob(Protocol):
    """A compiled pattern."""

    def fullmatch(self, text: str, /) -> object:
        """Something true if the whole of ``text`` matches, else None."""


@lru_cache(maxsize=1024)
def compile_glob(pattern: str, *, anchored: bool = False, ignore_case: bool = False) -> CompiledGlob:
    """``pattern``, ready to be matched with whole keys.

    Raises ``ConfigError`` naming the pattern for ``***``, unbalanced brackets or braces, bad ranges, a backslash at the
    end, more than 4,096 characters, and braces that nest deeper than 32."""
    if len(pattern) > _LONGEST:
        raise ConfigError(
            f"bad pattern {pattern[:80]!r}...: it has {len(pattern)} characters, at most {_LONGEST} may be"
        )
    parser = _Parser(pattern, anchored)
    items = parser.items()
    if not anchored and not pattern.startswith("/"):
        items.insert(0, FOLDERS)
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    body = plain_expression(items) if parser.has_raw else linear_expression(items)
    if body is None:
        return Automaton(items, flags)
    try:
        return re.compile(body, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"bad pattern {pattern!r}: {error}") from None


def literal_folder(pattern: str) -> str:
    """The deepest folder that every match of an anchored ``pattern`` lies under: where a listing may begin."""
    pattern = pattern.lstrip("/")
    match = _MAGIC.search(pattern)
    head = pattern if match is None else pattern[: match.start()]
    return head.rpartition("/")[0]


class _Parser:
    def __init__(self, pattern: str, anchored: bool) -> None:
        self.pattern = pattern
        self.text = pattern.removeprefix("/")
        self.anchored = anchored
        self.at = 0
        self.has_raw = False

    def fail(self, why: str) -> ConfigError:
        return ConfigError(f"bad pattern {self.pattern!r}: {why}")

    def items(self) -> list[Item]:
        out = self.sequence(depth=0)
        if self.at < len(self.text):
            raise self.fail("'}' without '{'")
        return out

    def sequence(self, depth: int) -> list[Item]:
        """Up to the end, or in braces up to the comma or brace that ends the alternative."""
        out: list[Item] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "}" or (char == "," and depth):
                break
            self.at += 1
            if char == "*":
                out.append(self.star())
            elif char == "?":
                out.append("[^/]")
            elif char == "[":
                out.append(self.char_class())
            elif char == "]":
                raise self.fail("']' without '['")
            elif char == "{":
                out.append(self.braces(depth))
            elif char == "\\":
                if self.at == len(self.text):
                    raise self.fail("a backslash at the end escapes nothing")
                char = self.text[self.at]
                self.at += 1
                out.append(f"(?!/)[{_ESCAPED[char]}]" if char in _ESCAPED else re.escape(char))
            else:
                out.append(re.escape(char))
        return out

    def star(self) -> str:
        start = self.at - 1
        while self.text[self.at : self.at + 1] == "*":
            self.at += 1
        count = self.at - start
        if count > 2:
            raise self.fail("'***' means nothing: use '**'")
        if count == 1:
            return STAR
        at_segment_start = start == 0 or self.text[start - 1] == "/"
        if self.anchored and at_segment_start and self.text[self.at : self.at + 1] == "/":
            self.at += 1
            return FOLDERS
        return STARS

    def braces(self, depth: int) -> Item:
        if self.text[self.at : self.at + 1] == "{":
            end = self.text.find("}}", self.at)
            if end < 0:
                raise self.fail("'{{' without '}}'")
            while self.text[end + 2 : end + 3] == "}":
                end += 1
            raw, self.at = self.text[self.at + 1 : end], end + 2
            return self.raw(raw)
        if depth == _DEEPEST:
            raise self.fail(f"braces nest deeper than {_DEEPEST}")
        branches = []
        while True:
            branches.append(self.sequence(depth + 1))
            if self.at == len(self.text):
                raise self.fail("'{' without '}'")
            self.at += 1
            if self.text[self.at - 1] == "}":
                return Group(branches)

    def raw(self, raw: str) -> str:
        self.has_raw = True
        flags, rest = _RAW.fullmatch(raw).groups("")  # type: ignore[union-attr]
        rest = _RAW_CLASS.sub(self.raw_class, rest)
        try:
            re.compile(f"(?a{flags}:{rest})")
        except (re.error, RecursionError) as error:
            raise self.fail(f"in '{{{{{raw}}}}}': {error}") from None
        return f"(?:(?a{flags}:{rest}))"

    def raw_class(self, found: re.Match[str]) -> str:
        """The class with the names in it spelled out, and without what Python may take for a set in a set one day."""
        text = found[0]
        return f"[{_RAW_ITEM.sub(self.raw_item, text[1:])}" if text.startswith("[") else text

    def raw_item(self, found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0] if found[0].startswith("\\") else f"\\{found[0]}"
        if found[1] not in _POSIX:
            raise self.fail(f"no character class is called {found[1]!r}")
        return _POSIX[found[1]]

    def char_class(self) -> str:
        negate = self.text[self.at : self.at + 1] in ("^", "!") and self.at < len(self.text)
        self.at += negate
        parts: list[str] = []
        first = True
        while True:
            if self.at >= len(self.text):
                raise self.fail("'[' without ']'")
            if self.text[self.at] == "]" and not first:
                self.at += 1
                break
            first = False
            parts.append(self.class_item())
        return f"(?!/)[{'^' if negate else ''}{''.join(parts)}]"

    def class_item(self) -> str:
        if self.text.startswith("[:", self.at):
            end = self.text.find(":]", self.at)
            name = self.text[self.at + 2 : end] if end > 0 else ""
            if name not in _POSIX:
                raise self.fail(f"no character class is called {name!r}")
            self.at = end + 2
            return _POSIX[name]
        if self.text[self.at] == "\\" and self.text[self.at + 1 : self.at + 2] in _ESCAPED:
            self.at += 2
            return _ESCAPED[self.text[self.at - 1]]
        low = self.class_char()
        if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
            self.at += 1
            high = self.class_char()
            if ord(high) < ord(low):
                raise self.fail(f"the range {low}-{high} runs backwards")
            return f"{re.escape(low)}-{re.escape(high)}"
        return re.escape(low)

    def class_char(self) -> str:
        char = self.text[self.at]
        self.at += 1
        if char == "\\":
            if self.at == len(self.text):
                raise self.fail("a backslash at the end escapes nothing")
            char = self.text[self.at]
            self.at += 1
        return char
