#!/usr/bin/env python3
"""Says which GPU the torch of this interpreter sees, in one line; where it sees none, or is too old, one line of why and exit code 2.

    scripts/find_gpu.py WHO [PACKAGE ...]     WHO begins that line; packages that the interpreter must have beside torch
"""
import importlib.util
import sys

OLDEST = (2, 11)


def what_is_wrong(torch) -> str | None:
    """In words that follow "must"; `torch` is the module."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST:
        return f"PYTHON must name an interpreter with torch {OLDEST[0]}.{OLDEST[1]} or newer, got torch {torch.__version__}"
    if torch.version.cuda is None:
        return f"PYTHON must name an interpreter whose torch is built for CUDA, got torch {torch.__version__}"
    if not torch.cuda.is_available():
        return f"a GPU must be there, got none that torch {torch.__version__} sees"
    return None


def main() -> int:
    who = sys.argv[1]
    try:
        import torch
    except ImportError:
        print(f"[{who}] PYTHON must name an interpreter with torch, got {sys.executable} without", file=sys.stderr)
        return 2
    wrong = what_is_wrong(torch)
    missing = [name for name in sys.argv[2:] if importlib.util.find_spec(name) is None]
    if missing and not wrong:
        wrong = f"PYTHON must name an interpreter with {', '.join(missing)}, got {sys.executable} without"
    if wrong:
        print(f"[{who}] {wrong}", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
