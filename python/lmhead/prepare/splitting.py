"""Long texts cut into pieces, and at a marker that stands between documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

READ_BYTES = 1 << 16


def cut(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    """Pieces of at most `limit` bytes, cut after a line end where there is one and never inside a UTF-8 character."""
    held = b""
    while True:
        while len(held) <= limit and (block := stream.read(limit + 1 - len(held))):
            held += block
        if len(held) <= limit:
            if held:
                yield held
            return
        end = cut_end(held, 0, limit)
        yield held[:end]
        held = held[end:]


def cut_end(text: bytes, start: int, limit: int) -> int:
    """Where to end a piece that starts at `start`; at least one byte more than `limit` must follow."""
    end = text.rfind(b"\n", start, start + limit) + 1
    if end == 0:
        end = start + limit
        while end > start + limit - 3 and text[end] & 0xC0 == 0x80:  # at most three continuation bytes follow a lead
            end -= 1
    return end


def cut_at_marker(stream: IO[bytes], marker: bytes, limit: int) -> Iterator[tuple[bool, bytes]]:
    """What stands between markers, in pieces as `cut` makes them, each with whether it opens a document.

    A line end directly behind a marker belongs to it; what is white space alone is no document.
    """
    held, at, at_end = b"", 0, False
    opens, behind_marker = True, False
    while True:
        found = held.find(marker, at)
        is_near = 0 <= found <= at + limit
        wanted = 2 if behind_marker else 0 if is_near else limit + len(marker)
        if len(held) - at < wanted and not at_end:
            block = stream.read(max(READ_BYTES, wanted))
            held, at, at_end = held[at:] + block, 0, not block
            continue
        if behind_marker:
            at += 2 if held.startswith(b"\r\n", at) else held.startswith(b"\n", at)
            behind_marker = False
            continue
        end = found if is_near else min(len(held), at + limit)
        if end == at + limit and not is_near:  # no marker starts before it, so that none is cut in two
            end = cut_end(held, at, limit) if end < len(held) else end
        ends_document = is_near or end == len(held)
        piece = held[at:end]
        if piece and not (opens and ends_document and piece.isspace()):
            yield opens, piece
            opens = False
        if is_near:
            opens, behind_marker, end = True, True, found + len(marker)
        elif end == len(held):
            return
        at = end
