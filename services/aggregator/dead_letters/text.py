"""Bytes and texts of strangers as a terminal may show them: nothing in them moves its cursor or hides it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

TEXT_CHARACTERS = 64 * 1024
HEX_BYTES = 4 * 1024


def safe(text: str) -> str:
    """Whatever does not print (control characters, escapes, direction marks, line separators) as \\x1b or \\u202e."""
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")


def as_text(value: bytes) -> str | None:
    """The value as text when it is UTF-8 and has no NUL, else None."""
    try:
        return None if b"\0" in value else value.decode()
    except UnicodeDecodeError:
        return None


def lines(value: bytes | None) -> Iterator[str]:
    """A value as lines of a page: text where it is text, else its bytes in hex. Each is indented, so none is ours."""
    if value is None:
        yield "  (none)"
        return
    text = as_text(value)
    if text is None:
        yield from (f"  {line}" for line in _hex(value[:HEX_BYTES]))
        left = len(value) - HEX_BYTES
    else:
        yield from (f"  {safe(line)}" for line in text[:TEXT_CHARACTERS].split("\n"))
        left = len(value) - len(text[:TEXT_CHARACTERS].encode())
    if left > 0:
        yield f"  ... and {left} bytes more: --output json has them all"


def _hex(value: bytes) -> Iterator[str]:
    for start in range(0, len(value), 16):
        row = value[start : start + 16]
        readable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):47}  {readable}"
