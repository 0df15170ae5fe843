"""Which lines of a package's functions some calls reach."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["lines_of", "reached"]

Lines = set[tuple[str, int]]


def lines_of(folder: Path) -> Lines:
    """Every line of every function in the folder's files that could be run."""
    found: Lines = set()
    for path in folder.glob("*.py"):
        module = compile(path.read_text(), str(path), "exec")
        for code in _functions(module):
            found |= {
                (str(path), line) for _, _, line in code.co_lines() if line and line > code.co_firstlineno
            }
    return found


def _functions(code: CodeType, inside: bool = False) -> Iterable[CodeType]:
    """Code of functions, not that of modules and classes, which runs on import."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            is_function = bool(constant.co_flags & 0x2)  # it has fast locals
            if is_function:
                yield constant
            yield from _functions(constant, is_function)


def reached(folder: Path, act: Callable[[bytes], None], inputs: Iterable[bytes]) -> Lines:
    """The lines in the folder that `act` runs on any of the inputs."""
    found: Lines = set()
    prefix = str(folder)

    def in_function(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return in_function

    def on_call(frame: FrameType, *_: Any) -> Any:
        return in_function if frame.f_code.co_filename.startswith(prefix) else None

    for data in inputs:
        sys.settrace(on_call)
        try:
            act(data)
        finally:
            sys.settrace(None)
    return found
