"""Records and configurations without the paths of the machine that made them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["portable"]

# An absolute path (also from a home folder or a drive) that no letter, colon or slash comes before:
# so neither the end of a relative path nor that of a URL.
_PATH = re.compile(r"(?<![\w.:/\\~-])(?:[A-Za-z]:[\\/]|~?/)[\w.@~-][^\s'\",;)\]]*")


def portable(value: Any) -> Any:
    """JSON data in which every absolute path is its last part only.

    A bundle is handed on; where its maker keeps things is nobody's business, and decides nothing.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(key): portable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [portable(one) for one in value]
    return value


def command(text: str) -> str:
    """A command line in which every absolute path is its last part only, quoted for a shell."""
    try:
        words = shlex.split(text)
    except ValueError:
        return _text(text)
    return shlex.join(_word(word) for word in words)


def _word(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and _is_path(value):
        return f"{key}={_last(value)}"
    return _last(word) if _is_path(word) else _text(word)


def _text(text: str) -> str:
    return _last(text) if _is_path(text) else _PATH.sub(lambda found: _last(found[0]), text)


def _is_path(text: str) -> bool:
    """Whether the whole text is one absolute path, which may have spaces in it."""
    return "\n" not in text and _PATH.match(text) is not None and ": " not in text


def _last(path: str) -> str:
    windows = path[1:3] in (":\\", ":/")
    return (PureWindowsPath(path) if windows else PurePosixPath(path)).name or "/"
