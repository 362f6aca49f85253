#!/usr/bin/env python3
"""Formats every C++ source by .clang-format, in place; with --check changes nothing and fails where it would.

Comments are not reflowed, since some hold tables: one that is too long is named and left to be wrapped by hand.
"""
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ["lmhead", "tests", "fuzz"]
COLUMNS = int(re.search(r"ColumnLimit: (\d+)", (ROOT / ".clang-format").read_text())[1])


def find_clang_format() -> str | None:
    """That of requirements.txt, which may be installed in an environment that this one stands on; else one on the path."""
    package = importlib.util.find_spec("clang_format")
    inside = pathlib.Path(package.origin).parent / "data/bin" if package is not None and package.origin else None
    return (shutil.which("clang-format", path=inside) if inside else None) or shutil.which("clang-format")


def main() -> int:
    sources = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in {".h", ".cc"})
    mode = ["--dry-run", "--Werror"] if "--check" in sys.argv[1:] else ["-i"]
    program = find_clang_format()
    if program is None:
        print("clang-format must be installed, as requirements.txt has it, got none")
        return 2
    done = subprocess.run([program, "--style=file", *mode, *sources], check=False)
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns, at most {COLUMNS}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > COLUMNS
    ]
    if done.returncode:
        wrong.append("scripts/format.py mends what clang-format found")
    print("\n".join(wrong or [f"{len(sources)} sources are formatted"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
