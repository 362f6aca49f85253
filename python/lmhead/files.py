"""Files and folders that are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path


def replace_folder(fresh: Path, out: Path, scratch: Path) -> None:
    """Puts `fresh` in the place of `out`; what stood there goes to `scratch`, which is on the same disk."""
    mask = os.umask(0)
    os.umask(mask)
    fresh.chmod(0o777 & ~mask)
    old = scratch / "old"
    try:
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except BaseException:  # an interruption between the two must not lose the old one either
        if old.exists() and not out.exists():
            old.rename(out)
        raise
