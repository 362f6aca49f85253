"""Writes a page in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lmhead.command import RequestError
from lmhead.process import interruptions_deferred


def write_page(html: str, out: Path) -> None:
    """Writes a page in one step: a reader sees the old file or the new one, whole."""
    page = html.encode("utf-8", "backslashreplace")
    if out.is_dir():
        raise RequestError(f"--out must name a file, got the folder {str(out)!r}")
    with interruptions_deferred():  # else the temporary file would be left behind
        _replace(page, out)


def _replace(page: bytes, out: Path) -> None:
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, out)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RequestError(f"the report must be writable at {str(out)!r}: {error.strerror}") from None
