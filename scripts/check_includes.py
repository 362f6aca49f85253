#!/usr/bin/env python3
"""Fails when a file includes a room that its own room must not know.

Rooms are ordered; a room may include itself and any room before it. `train`, `diagnose` and
`evaluate` stand on one step and never include each other, and nothing but the command line includes the command line.
"""
import pathlib
import re
import sys

STEPS = [["base"], ["data", "kernels", "statistics"], ["processes"], ["heads"], ["models"], ["train", "diagnose", "evaluate"], ["run"],
         ["measure"], ["study"], ["cli"]]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]lmhead/([a-z_]+)/')


def wrong_includes(root: pathlib.Path) -> list[str]:
    step_of = {room: step for step, rooms in enumerate(STEPS) for room in rooms}
    wrong = []
    for path in sorted((root / "lmhead").rglob("*")):
        if path.suffix not in {".h", ".cc"}:
            continue
        room = path.relative_to(root / "lmhead").parts[0]
        if room not in step_of:
            wrong.append(f"{path.relative_to(root)}: {room} is not a room")
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match = INCLUDE.match(line)
            if not match or match[1] == room:
                continue
            if match[1] not in step_of or step_of[match[1]] >= step_of[room]:
                wrong.append(f"{path.relative_to(root)}:{number}: {room} must not include {match[1]}")
    return wrong


def main() -> int:
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent
    wrong = wrong_includes(root)
    print("\n".join(wrong) if wrong else "includes go one way")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
