"""The files inside tar and zip archives, one after another."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO

from lmhead.command import RequestError


def members_of_tar(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents in the order of the archive; each is to be read before the next is asked for."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content


def members_of_zip(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """The same of a zip archive; `stream` must be one that can seek."""
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            try:
                content = archive.open(member)
            except (NotImplementedError, RuntimeError) as error:  # packed in a way that is not known; a password
                raise RequestError(f"{name} must have members that can be read, got: {error}") from None
            with content:
                yield member.filename, content
