"""What one filter rule does to files and to folders, and the lists that rules are read from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, cast

from omnistorage.errors import ConfigError
from omnistorage.globs import compile_glob

Source = str | os.PathLike[str] | Iterable[str]
"""The path of a local text file, an open text file, or lines."""

Matcher = Callable[[str], object]
"""``fullmatch`` of one pattern: something true where it matches."""


class Rule(NamedTuple):
    """One rule, compiled.

    ``matches`` is asked with the paths of files. ``folders`` are asked with the path of a folder and a slash after it,
    or with "" for the root: whether an include may hold for something in there, whether an exclude holds for all that
    can be in there.
    ``everywhere`` says that the answer is yes for every folder, ``everything`` that the rule matches every file.
    """

    include: bool
    matches: Matcher
    folders: tuple[Matcher, ...]
    everywhere: bool
    everything: bool


@lru_cache(maxsize=4096)
def compile_rule(text: str, ignore_case: bool = False) -> Rule:
    """The rule that ``text`` (``+ pattern`` or ``- pattern``) is. Raises ``ConfigError`` naming the rule."""
    sign, pattern = text[:2], text[2:]
    if sign not in ("+ ", "- ") or not pattern:
        raise ConfigError(f"bad rule {text!r}: a rule is '+ pattern', '- pattern' or '!'")
    include = sign == "+ "
    if pattern.endswith("/") and not include:
        pattern += "**"
    try:
        matches = compile_glob(pattern, ignore_case=ignore_case).fullmatch
        globs = _reached(pattern) if include else _covered(pattern)
        folders = tuple(compile_glob(glob, ignore_case=ignore_case).fullmatch for glob in globs)
    except RecursionError:
        raise ConfigError(f"bad rule {text!r}: it nests too deep") from None
    except ConfigError as error:
        raise ConfigError(f"bad rule {text!r}: {error}") from None
    everywhere = "**" in globs or "/**" in globs
    everything = pattern in ("*", "**", "/**")
    return Rule(include, matches, folders, everywhere, everything)


# --- patterns and folders ---------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\\.|\[[!^]?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|\{\{.*?\}\}+|\*\*|.", re.DOTALL)
_LOOKS_AHEAD = re.compile(r"\(\?(?![:imsx-])|\$|\\[bBZz]|[*+?}]\+")
_MANY = 100


class _Opaque(str):
    """A piece of a pattern that may match slashes and is not taken apart."""

    __slots__ = ()


def _reached(pattern: str) -> list[str]:
    """Globs that match a folder, slash included, if ``pattern`` may match something in it."""
    if not pattern.startswith("/"):
        return ["/", pattern] if pattern.endswith("/") else ["**"]
    globs = ["/"]  # the root
    for pieces in _alternatives(pattern[1:]):
        for at, piece in enumerate(pieces):
            if piece == "**" or isinstance(piece, _Opaque):
                globs.append(_glob([*pieces[:at], "**"], anchored=True))
                break  # that holds whatever could follow
            if piece == "/":
                globs.append(_glob(pieces[: at + 1], anchored=True))
    return globs


def _covered(pattern: str) -> list[str]:
    """Globs that match a folder, slash included, only if ``pattern`` matches everything that can be in it."""
    anchored = pattern.startswith("/")
    globs = []
    for pieces in _alternatives(pattern.removeprefix("/")):
        if any(isinstance(piece, _Opaque) and _LOOKS_AHEAD.search(piece) for piece in pieces):
            continue  # what matches a folder's name may then not match what is in it
        if pieces == ["*"] and not anchored:
            globs.append("**")
        elif pieces[-1:] == ["**"]:
            globs.append(_glob(pieces, anchored))
        elif pieces[-3:] == ["**", "/", "*"]:
            globs.append(_glob(pieces[:-1], anchored))
    return globs


def _glob(pieces: list[str], anchored: bool) -> str:
    text = "".join(_merged(pieces))
    if anchored:
        return f"/{text}"
    return f"\\{text}" if text.startswith("/") else text


def _merged(pieces: list[str]) -> list[str]:
    """The same pieces with one star, or one pair of stars, where several came together."""
    out: list[str] = []
    for piece in pieces:
        if piece in ("*", "**") and out and out[-1] in ("*", "**"):
            out[-1] = max(out[-1], piece)
        else:
            out.append(piece)
    return out


def _alternatives(pattern: str) -> list[list[str]]:
    """The pieces of a pattern that is known to be sound, once for each choice among braces that hold slashes."""
    pieces = ("/" if piece == "\\/" else piece for piece in _TOKEN.findall(pattern))
    return [_merged(option) for option in _sequence(pieces, depth=0)[0]]


def _sequence(pieces: Iterator[str], depth: int) -> tuple[list[list[str]], str, str]:
    """The choices up to the end, or in braces to the comma or brace that ends one; their text; that comma or brace."""
    options: list[list[str]] = [[]]
    text = ""
    for piece in pieces:
        if depth and piece in (",", "}"):
            return options, text, piece
        if piece == "{":
            choices, piece = _group(pieces, depth)
        elif piece.startswith("{{"):
            choices = [[_Opaque(piece)]]
        else:
            choices = [[piece]]
        if len(options) * len(choices) > _MANY:
            choices = [[_Opaque(piece)]]
        options = [[*option, *choice] for option in options for choice in choices]
        text += piece
    return options, text, ""


def _group(pieces: Iterator[str], depth: int) -> tuple[list[list[str]], str]:
    """The choices of a group in braces whose first brace has been read, and its text."""
    choices: list[list[str]] = []
    texts = []
    end = ","
    while end == ",":
        options, text, end = _sequence(pieces, depth + 1)
        choices += options
        texts.append(text)
    whole = f"{{{','.join(texts)}}}"
    if any(piece in ("/", "**") or isinstance(piece, _Opaque) for choice in choices for piece in choice):
        return choices, whole
    return [[whole]], whole


# --- lists ------------------------------------------------------------------------------------------------------------

Entry = tuple[str, str]
"""A rule, and where it stands."""

NOTHING_ELSE: tuple[Entry] = (("- /**", ""),)


def each_source(value: Source | Iterable[Source]) -> list[Source]:
    """One source as a list of one; a ``str`` is a path, and so is each ``str`` in a list."""
    if isinstance(value, (str, os.PathLike)) or hasattr(value, "read"):
        return [cast("Source", value)]
    return list(value)


def texts(value: str | Iterable[str]) -> list[str]:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else list(value)


def read_list(source: Source, option: str) -> Iterator[tuple[str, str]]:
    """The lines that say something, without white space around them, each with where it stands."""
    name, lines = _read(source, option, raw=False)
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if line and line[0] not in "#;":
            yield line, f"{name}, line {number}"


def read_raw(source: Source, option: str) -> Iterator[str]:
    """The lines as they are; what NUL separates, if there is one."""
    return (line for line in _read(source, option, raw=True)[1] if line)


def _read(source: Source, option: str, raw: bool) -> tuple[str, list[str]]:
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            with open(name, "rb") as file:
                data: str | bytes = file.read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{option}: cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from error
    elif hasattr(source, "read"):
        name, data = str(getattr(source, "name", "<open file>")), source.read()
    else:
        lines = [line.removesuffix("\n").removesuffix("\r") for line in source]
        return "<lines>", [line.removeprefix("\ufeff") if not at else line for at, line in enumerate(lines)]
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    text = text.removeprefix("\ufeff")
    if raw and "\0" in text:
        return name, text.split("\0")
    return name, [line.removesuffix("\r") for line in text.split("\n")]


def signed(sign: str, value: str | Iterable[str]) -> list[Entry]:
    return [(sign + text.rstrip(), "") for text in texts(value)]


def listed(sign: str, sources: list[Source], option: str) -> list[Entry]:
    return [(sign + line, where) for source in sources for line, where in read_list(source, option)]


def in_order(entries: Iterable[Entry], ignore_case: bool = False) -> tuple[str, ...]:
    """The rules that are left, sound every one of them."""
    out: list[str] = []
    for text, where in entries:
        if text == "!":
            out.clear()
            continue
        try:
            compile_rule(text, ignore_case)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from None
        out.append(text)
    return tuple(out)


def files(sources: list[Source], raw: list[Source]) -> frozenset[str] | None:
    if not sources and not raw:
        return None
    lines = [line for source in sources for line, _ in read_list(source, "files_from")]
    lines += [line for source in raw for line in read_raw(source, "files_from_raw")]
    return frozenset(line.removeprefix("/") for line in lines)


def markers(names: str | Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(texts(names)))
    for name in names:
        if not name.strip("/") or "/" in name[:-1]:
            raise ConfigError(
                f"exclude_if_present: {name!r} is not the name of a file in a folder, or of a folder with '/'"
            )
    return names
