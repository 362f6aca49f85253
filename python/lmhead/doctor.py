"""Says what is here: versions, processor, threads, devices, packages, and what is missing or does not work.

    lmhead doctor [--json]

What it prints is made to be pasted into a report of a fault: it names no file of the user's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from lmhead.command import Parser, carry_out
from lmhead.formats import visible

# What each package is for; those without an extra come with this package.
PACKAGES = {
    "torch": ("everything", None),
    "numpy": ("token files", None),
    "tokenizers": ("lmhead prepare, text for lmhead measure", None),
    "pyarrow": ("texts in parquet and arrow files", None),
    "zstandard": ("texts in .zst files", None),
    "huggingface_hub": ("models named by the hub", None),
    "jinja2": ("pages", None),
    "plotly": ("plots on pages", None),
    "matplotlib": ("plots of documents", None),
    "transformers": ("lmhead.measure of any model, the examples", "transformers"),
    "lm_eval": ("lmhead evaluate", "evaluate"),
    "datasets": ("hf:NAME as a text, lmhead evaluate", "datasets"),
    "tensorboard": ("lmhead log --to tensorboard", "tensorboard"),
    "wandb": ("lmhead log --to wandb", "wandb"),
    "trackio": ("lmhead log --to trackio", "trackio"),
    "lightning": ("lmhead.integrations.lightning", "integrations"),
    "sentencepiece": ("tokenizer.model of SentencePiece", "sentencepiece"),
    "gguf": (".gguf files as models", "gguf"),
}


class Unwell(Exception):
    """Something that every installation must have does not work; it has been printed."""


def facts() -> dict[str, Any]:
    """What is known of this installation and machine, under the headings of the printed text; `faults` are what is wrong."""
    found: dict[str, Any] = {"lmhead": {}, "system": _system(), "torch": {}, "devices": {}, "packages": _packages(), "faults": []}

    def try_to(what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever it is, it is the news
            found["faults"].append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")

    try_to("torch must load", lambda: _describe_torch(found))
    try_to("the native library must load", lambda: _describe_library(found))
    if not found["faults"]:
        try_to("the fused loss must equal its plain composition", _check_loss)
    found["faults"] += [
        f"{name} must be installed ({purpose})"
        for name, (purpose, extra) in PACKAGES.items()
        if extra is None and found["packages"][name] is None
    ]
    return found


def _system() -> dict[str, Any]:
    libc, version = platform.libc_ver()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "libc": f"{libc} {version}".strip(),
        "cores": available,
    }
    if "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


def _describe_torch(found: dict[str, Any]) -> None:
    import torch

    found["torch"] = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found["devices"] = {"cuda": cuda, "mps": bool(torch.backends.mps.is_available())}


def _describe_library(found: dict[str, Any]) -> None:
    import torch

    import lmhead.ops  # noqa: F401  (loads it)

    by = json.loads(torch.ops.lmhead._trained_by_this_process())
    found["lmhead"] = {"version": _version("lmhead") or "not installed as a package", "commit": by["commit"], "torch": by["torch_version"]}
    kernel = "here, and run on no GPU so far" if torch.ops.lmhead._has_cuda_rows() else "not built: CUDA tensors take ATen's operations"
    found["devices"]["cuda_kernel"] = kernel
    if found["devices"]["cuda"]:
        chunks = [torch.ops.lmhead._fused_chunk_bytes(torch.device("cuda", index)) for index in range(len(found["devices"]["cuda"]))]
        found["devices"]["cuda_chunk_mib"] = [chunk >> 20 for chunk in chunks]
    found["system"] |= {"processor": by["processor"], "instructions": by["instructions"], "kernels": by["vector_level"]}


def _check_loss() -> None:
    import torch
    import torch.nn.functional as F

    from lmhead.ops import linear_cross_entropy

    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 40, generator=draw, dtype=torch.float64) for size in (30, 700))
    target = torch.randint(700, (30,), generator=draw)
    got, wanted = linear_cross_entropy(hidden, weight, target).item(), F.cross_entropy(hidden @ weight.T, target).item()
    if abs(got - wanted) > 1e-12 * abs(wanted):
        raise ArithmeticError(f"got {got!r} for {wanted!r}")


def as_text(found: dict[str, Any]) -> str:
    lines = []
    for heading in ("lmhead", "system", "torch", "devices"):
        for key, value in found[heading].items():
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else {None: "no", True: "yes", False: "no"}.get(value, value)
            lines.append(f"{heading + '.' + key:24} {visible(str(shown))}")
    for name, version in found["packages"].items():
        purpose, extra = PACKAGES[name]
        missing = f"missing: {purpose}" + (f"; pip install 'lmhead[{extra}]'" if extra else "")
        lines.append(f"{'packages.' + name:24} {version or missing}")
    lines += [f"{'FAULT':24} {visible(fault)}" for fault in found["faults"]]
    return "\n".join(lines)


def request(argv: list[str] | None) -> None:
    parser = Parser(prog="lmhead doctor", description="Print versions, processor, devices and what is missing, to paste into a report.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    found = facts()
    print(json.dumps(found, indent=1) if arguments.json else as_text(found), flush=True)
    if found["faults"]:
        raise Unwell


def main(argv: list[str] | None = None) -> int:
    try:
        return carry_out("doctor", lambda: request(argv))
    except Unwell:
        return 1


if __name__ == "__main__":
    sys.exit(main())
