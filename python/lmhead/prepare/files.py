"""The files that a request names: given ones, those below folders, and the standard library's sources."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lmhead.command import RequestError
from lmhead.prepare.compression import describe, split_name
from lmhead.prepare.passed_over import PassedOver

PYTHON_STDLIB = "python-stdlib"
STDLIB_SKIPPED = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload"}
HIDDEN, OTHER_SUFFIX = "hidden", "of another suffix, which --suffix reads"
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class InputFile(NamedTuple):
    name: str  # what messages call it
    path: Path
    size: int
    modified: int  # nanoseconds
    is_named: bool = False  # by the user, so that it is refused rather than passed over


def recorded(name: str) -> str:
    """A name as JSON has it: bytes that are not UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def kind_of_entry(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "no file")


def require_file(path: str | Path, what: str) -> os.stat_result:
    """The status of a regular file. Pipes and devices are refused: they may never end."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{what} must be readable, got {str(path)!r}: {describe(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else kind_of_entry(status.st_mode)
        raise RequestError(f"{what} must be a file, got {kind} {str(path)!r}")
    return status


def files_of(given: str, suffixes: tuple[str, ...], passed: PassedOver) -> list[InputFile]:
    """The file that was given, or those below the folder that was whose names end as is asked for."""
    path = Path(given)
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        raise RequestError(f"an input must be a readable file or folder, got {given!r}: {describe(error)}") from None
    if not is_folder:
        status = require_file(path, "an input")
        return [InputFile(given, path, status.st_size, status.st_mtime_ns, is_named=True)]
    root = given.rstrip("/")
    here = PassedOver()
    files = walk(path, lambda name: not name.startswith("."), lambda name: has_suffix(name, suffixes), root, here)
    passed.update(here)
    if not files:
        raise RequestError(
            f"a folder must hold files with a suffix of {' '.join(suffixes)} (--suffix), got none in {given!r}"
            + (f": {here}" if here else "")
        )
    return files


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return split_name(PurePosixPath(name).name)[0].endswith(suffixes)


def walk(
    root: Path,
    folder_wanted: Callable[[str], bool],
    file_wanted: Callable[[str], bool],
    prefix: str,
    passed: PassedOver | None = None,
) -> list[InputFile]:
    """The wanted files below a folder, in the order of their paths behind `prefix`."""
    passed = PassedOver() if passed is None else passed

    def refuse(error: OSError) -> None:
        raise RequestError(f"{error.filename} must be readable, got: {describe(error)}")

    files = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        inside = Path(folder).relative_to(root).as_posix()
        shown = prefix if inside == "." else f"{prefix}/{inside}"
        for name in folders:
            if not folder_wanted(name):
                passed.add(HIDDEN, f"{shown}/{name}")
            elif Path(folder, name).is_symlink():
                passed.add("being a link to a folder", f"{shown}/{name}")
        folders[:] = [name for name in folders if folder_wanted(name)]
        for name in names:
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError as error:
                passed.add(f"unreadable: {describe(error)}", f"{shown}/{name}")
                continue
            if name.startswith("."):
                passed.add(HIDDEN, f"{shown}/{name}")
            elif not stat.S_ISREG(status.st_mode):
                passed.add(f"being {kind_of_entry(status.st_mode)}", f"{shown}/{name}")
            elif not file_wanted(name):
                passed.add(OTHER_SUFFIX, f"{shown}/{name}")
            else:
                files.append(InputFile(f"{shown}/{name}", path, status.st_size, status.st_mtime_ns))
    return sorted(files)


def standard_library_files() -> list[InputFile]:
    """The sources of this Python's standard library, without tests and without what the machine's build wrote."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = walk(
        root,
        lambda folder: folder not in STDLIB_SKIPPED and not folder.startswith(("config-", ".")),
        lambda name: name.endswith(".py") and not name.startswith("_sysconfigdata"),
        PYTHON_STDLIB,
    )
    if not files:
        raise RequestError(f"the corpus {PYTHON_STDLIB} must have sources, got no .py file in {str(root)!r}")
    return files
