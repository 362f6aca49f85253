"""Texts of lines and lists of JSON and of rows of CSV, one after another, each within bounds of memory."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from lmhead.command import RequestError
from lmhead.prepare.options import TextOptions

CHUNK_BYTES = 1 << 20
SPACE = re.compile(r"[ \t\n\r]*")


def too_long(where: str, limit: int) -> RequestError:
    return RequestError(f"{where} must be at most {limit} bytes, got more: --document-bytes lets longer ones through")


def excerpt(text: str | bytes) -> str:
    """The start of a text, quoted."""
    if isinstance(text, bytes):
        text = text[:400].decode("utf-8", "replace")
    text = text[:400].strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def lines(name: str, stream: IO[bytes], limit: int) -> Iterator[bytes]:
    """The lines of a stream. Throws on one of more than `limit` bytes, before it is read to its end."""
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise too_long(f"{name}:{number}", limit)
        yield line


def text_of(where: str, record: Any, field: str, got: str | bytes) -> bytes:
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        keys = f" with the keys {', '.join(map(repr, list(record)[:8]))}" if isinstance(record, dict) and record else ""
        raise RequestError(f"{where} must be an object with the text {field!r} (--text-field), got {excerpt(got)}{keys}")
    return text.encode("utf-8", "replace")  # JSON can say half a surrogate pair, UTF-8 cannot


def texts_of_json_lines(name: str, stream: IO[bytes], options: TextOptions) -> Iterator[bytes]:
    for number, line in enumerate(lines(name, stream, options.record_bytes), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise RequestError(f"{name}:{number} must be a line of JSON, got {excerpt(line)}") from None
        yield text_of(f"{name}:{number}", record, options.text_field, line)


def texts_of_json(name: str, stream: IO[bytes], options: TextOptions) -> Iterator[bytes]:
    """Texts of a list of objects, or of objects one after another, however they are broken into lines."""
    for number, (value, got) in enumerate(json_values(name, stream, options.record_bytes), start=1):
        yield text_of(f"{name}: object {number}", value, options.text_field, got)


def json_values(name: str, stream: IO[bytes], limit: int) -> Iterator[tuple[Any, str]]:
    """The elements of a JSON list, or values one after another, each with how it opens in the file."""
    utf8 = codecs.getincrementaldecoder("utf-8")("strict")
    decoder = json.JSONDecoder()
    buffer, at, at_end, number = "", 0, False, 0
    is_list: bool | None = None  # until the first character tells

    def refuse(position: int) -> RequestError:
        return RequestError(f"{name} must be JSON, got {excerpt(buffer[position:])} behind {number} objects")

    while True:
        at = SPACE.match(buffer, at).end()  # type: ignore[union-attr]
        opener = buffer[at : at + 1]
        if is_list is None and opener:
            is_list = opener == "["
            at += is_list
            continue
        if is_list and number and opener == ",":
            separator, after = at, SPACE.match(buffer, at + 1).end()  # type: ignore[union-attr]
        else:
            separator, after = None, at
        closes = is_list and separator is None and opener == "]"
        if closes and not at_end:
            pass  # nothing may follow, so the rest is read
        elif closes:
            if buffer[at + 1 :].strip():
                raise refuse(at + 1)
            return
        elif opener and (separator is not None or not number or not is_list):
            try:
                value, end = decoder.raw_decode(buffer, after)
                if end < len(buffer) or at_end:  # a number that ends with the buffer may go on
                    yield value, buffer[after : after + 400]
                    at, number = end, number + 1
                    continue
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(buffer) - 16 or error.msg.startswith("Unterminated string")
                if at_end or not is_cut:
                    raise refuse(after) from None
            except (ValueError, RecursionError):
                raise refuse(after) from None
        elif opener:
            raise refuse(at)
        elif at_end:
            if is_list:
                raise RequestError(f"{name} must be JSON, got a list without an end behind {number} objects")
            return
        left = len(buffer) - at
        if left > limit:
            raise too_long(f"{name}: object {number + 1}", limit)
        block = stream.read(max(CHUNK_BYTES, min(left, limit + 1 - left)))  # twice as much, so that parsing again costs little
        at_end = not block
        try:
            buffer, at = buffer[at:] + utf8.decode(block, at_end), 0
        except UnicodeDecodeError:
            raise RequestError(f"{name} must be JSON in UTF-8, got bytes that are not: --encoding reads others") from None


def texts_of_csv(name: str, stream: IO[bytes], options: TextOptions, delimiter: str = ",") -> Iterator[bytes]:
    """Texts of a column; the first row names the columns. Bytes that are not UTF-8 stay as they are."""
    field, limit = options.text_field, options.record_bytes
    csv.field_size_limit(limit)
    rows = csv.reader(
        (line.decode("utf-8", "surrogateescape") for line in lines(name, stream, limit)), delimiter=delimiter, strict=True
    )
    try:
        header = next(rows, [])
        if field not in header:
            got = excerpt(", ".join(header))
            raise RequestError(f"{name} must have a column {field!r} (--text-field) in its first row, got {got}")
        column = header.index(field)
        for row in rows:
            if not row:
                continue
            if len(row) <= column:
                raise RequestError(f"{name}:{rows.line_num} must have {len(header)} columns, got {len(row)}")
            yield row[column].encode("utf-8", "surrogateescape")
    except csv.Error as error:
        raise RequestError(f"{name}:{rows.line_num} must be a row of CSV, got: {error}") from None


def texts_of_tsv(name: str, stream: IO[bytes], options: TextOptions) -> Iterator[bytes]:
    return texts_of_csv(name, stream, options, "\t")
