"""What a file is by its name and its first bytes, and whether that is text."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 1 << 20
MOST_UNDECODABLE = 0.01
TAR_SIGNATURE_AT = 257

# By name; what is none of these is plain text.
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".tar": "tar",
    ".zip": "zip",
}
EXTRACT, UNPACK = "extract its text first", "unpack it first"
# What opens with bytes that say it, and is not text; what to do about it.
SIGNATURES = [
    (re.compile(signature, re.DOTALL), what, advice)
    for signature, what, advice in [
        (rb"%PDF-", "a PDF document", EXTRACT),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an office program", EXTRACT),
        (rb"PK\x03\x04|PK\x05\x06", "a zip archive, or a document or model that is one inside", "name it .zip to have its members read"),
        (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\x04\x22\x4d\x18|\x1f[\x9d\xa0]|LZIP\x01|\x89LZO\x00", "packed in a way that is not read", UNPACK),
        (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|II\*\x00|MM\x00\*|RIFF....WEBP", "an image", EXTRACT),
        (rb"RIFF....(WAVE|AVI )|OggS\x00|fLaC\x00|ID3[\x02-\x04]\x00|\x00\x00..ftyp|\x1a\x45\xdf\xa3", "sound or film", EXTRACT),
        (rb"\x7fELF|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe|\0asm|MZ.\x00|!<arch>\n", "a program", EXTRACT),
        (rb".{3}[\x00-\x3f]\x00{4}\{\s*\"", "a safetensors file", "give a model as MODEL, text as text"),
        (rb"GGUF[\x01-\xff]\x00\x00\x00", "a GGUF model", "give text"),
        (rb"\x89HDF\r\n|\x93NUMPY|\x80[\x02-\x05]", "a file of arrays or Python objects", EXTRACT),
        (rb"\x88\xd8\x34\x01[\x01-\xff]\x00\x00\x00|\x41\xda\x34\x01[\x01-\xff]\x00\x00\x00", "token ids of llm.c", "data.path of lmhead train and --tokens of lmhead measure read them"),
        (rb"SQLite format 3\x00|Obj\x01", "a database", "export its text as .jsonl, .csv or .parquet"),
        (rb"wOF[F2]|\x00\x01\x00\x00\x00|OTTO\x00", "a font", "give text"),
        (rb"\x00\x05\x16[\x00\x07]", "what macOS keeps beside a file", "leave it out"),
    ]
]
# The longer mark first: that of UTF-32 opens with that of UTF-16.
BYTE_ORDER_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


class NotText(Exception):
    """The file is no text: `what` it is, how much so, and what to do about it."""

    def __init__(self, what: str, advice: str, detail: str = ""):
        super().__init__(f"{what}{detail}; {advice}")
        self.reason = f"{what}; {advice}"  # the same for all files of the kind


def kind_of(bare_name: str, head: bytes) -> str:
    """text, jsonl, json, csv, tsv, parquet, arrow, tar or zip; of an unpacked file with a lower-case name."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1\0\0"):
        return "arrow"
    suffix = "." + bare_name.rpartition(".")[2]
    if suffix not in KINDS and head[TAR_SIGNATURE_AT : TAR_SIGNATURE_AT + 5] == b"ustar":
        return "tar"
    return KINDS.get(suffix, "text")


def require_text(head: bytes, is_whole: bool, encoding: str, is_known: bool) -> None:
    """Throws NotText unless what opens with `head` is text in `encoding`; `is_known`: its suffix says that it is text.

    `is_whole`: the file has no more than its head, so that nothing at its end is only half there.
    """
    for signature, what, advice in SIGNATURES:
        if signature.match(head):
            raise NotText(what, advice)
    family = next((family for mark, family in BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if family is not None and not encoding.startswith(family):
        raise NotText(f"text in {family.upper()}", f"--encoding {family} reads it")
    if encoding == "utf-8" and (guess := looks_like_utf16(head)):
        raise NotText("text in UTF-16 without a byte order mark", f"--encoding {guess} reads it")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head, is_whole)
    if "\0" in text and not is_known:
        raise NotText("a file with NUL bytes", "if it is text, --suffix with its suffix says so")
    replaced = text.count("\ufffd") - (head.count("\ufffd".encode()) if encoding == "utf-8" else 0)
    share = undecodable_share(replaced, len(head))
    if share > MOST_UNDECODABLE:
        raise undecodable(share, encoding)


def looks_like_utf16(head: bytes) -> str | None:
    """The name of the UTF-16 that has a NUL in half of its bytes, as Latin letters give; else None."""
    some = head[:4096]
    pairs = len(some) // 2
    if pairs < 2:
        return None
    even, odd = some[0 : 2 * pairs : 2].count(0) / pairs, some[1 : 2 * pairs : 2].count(0) / pairs
    if odd > 0.5 and even < 0.1:
        return "utf-16-le"
    return "utf-16-be" if even > 0.5 and odd < 0.1 else None


def undecodable_share(replaced: int, size: int) -> float:
    return max(0, replaced) / max(1, size)


def undecodable(share: float, encoding: str) -> NotText:
    return NotText(
        f"text of which more than {MOST_UNDECODABLE:.0%} cannot be decoded as {encoding.upper()}",
        "--encoding reads others, such as latin-1",
        f" ({share:.1%})",
    )
