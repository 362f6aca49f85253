"""Computes features with transformers for `lmhead measure --engine transformers`; a user rarely runs it.

    lmhead-features --windows FILE --out FILE -- FOLDER

FILE of windows has int64 [N] `inputs`, `targets`, `positions`, which are 0 where a window begins, and perhaps `documents`.
OUT becomes a file of features (docs/files.md). The model is read in float32, its weights from safetensors alone, and no
code that comes with it is run.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lmhead.command import Parser, RequestError, carry_out, load
from lmhead.formats import one_line
from lmhead.linear_head import LinearHead, linear_head
from lmhead.safetensors_header import write_header

BATCH_TOKENS = 4096
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def open_model(transformers: Any, folder: str) -> Any:
    """The causal language model in evaluation mode. Raises RequestError where it cannot be read whole."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # of many kinds: configurations, files, shapes
        raise RequestError(f"{folder} must be a model that transformers reads, got {type(error).__name__}: {one_line(error)[:200]}") from None
    lacking = sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])})
    if lacking:
        raise RequestError(f"{folder} must have all weights of the model, got none that fit for {', '.join(lacking[:3])}")
    return model.eval()


def batches(positions: Tensor) -> Iterator[tuple[int, int, int]]:
    """Begin, windows and length of consecutive windows that are as long as each other."""
    begins = torch.nonzero(positions == 0).flatten().tolist()
    lengths = [end - begin for begin, end in zip(begins, [*begins[1:], len(positions)], strict=True)]
    at = 0
    while at < len(begins):
        count = 1
        while at + count < len(begins) and lengths[at + count] == lengths[at] and (count + 1) * lengths[at] <= BATCH_TOKENS:
            count += 1
        yield begins[at], count, lengths[at]
        at += count


def hidden_rows(model: Any, head: LinearHead, inputs: Tensor, positions: Tensor) -> Iterator[Tensor]:
    """The features that enter the head, a batch at a time, [n, D] float32."""
    with torch.no_grad(), head.features() as features:
        for begin, count, length in batches(positions):
            ids = inputs[begin : begin + count * length].view(count, length)
            features.clear()
            logits = model(input_ids=ids, use_cache=False).logits
            if len(features) != 1 or features[0].shape[:-1] != ids.shape:
                raise ValueError("[features] the head must be applied once to every position, got another use of it")
            if begin == 0:
                head.check(features[0][0, -8:], logits[0, -8:])
            yield features[0].flatten(0, 1).float()


def write(file: BinaryIO, rows: Iterator[Tensor], shape: tuple[int, int], others: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file with `hidden` last, which is written as it comes."""
    write_header(file, [*((name, DTYPES[other.dtype], other.shape) for name, other in others.items()), ("hidden", "F32", shape)], metadata)
    for other in others.values():
        file.write(other.contiguous().numpy().data)
    for tensor in rows:
        file.write(tensor.contiguous().numpy().data)


def compute(folder: str, windows: str, out: str) -> None:
    """Writes the file of features. Raises RequestError in one line on whatever keeps the model from being measured."""
    transformers = load("transformers", "transformers")
    import safetensors.torch  # which transformers needs itself

    given = safetensors.torch.load_file(windows)
    inputs, targets, positions = given["inputs"], given["targets"], given["positions"]
    model = open_model(transformers, folder)
    print(f"[features] {one_line(folder)}: features by transformers {transformers.__version__}, {type(model).__name__}", file=sys.stderr)
    try:
        head = linear_head(model)
        weight = head.weight.detach().float()
        known = min(head.known_ids or len(weight), len(weight))
        if int(torch.maximum(inputs.max(), targets.max())) >= known:
            raise RequestError(f"ids must be below the model's {known} tokens, got {int(torch.maximum(inputs.max(), targets.max()))}")
        others = {"targets": targets, "positions": positions}
        if "documents" in given:
            others["documents"] = given["documents"]
        others["weight"] = weight
        if head.bias is not None:
            others["bias"] = head.bias.detach().float()
        need = 4 * (len(inputs) * weight.shape[1] + weight.numel())
        free = shutil.disk_usage(Path(out).parent).free
        if need > free:
            raise RequestError(f"{Path(out).parent} must have {need >> 20} MiB free for the features, got {free >> 20}: TMPDIR names another folder, --max-tokens takes fewer")
        metadata = {"logit_scale": repr(head.scale), "logit_softcap": repr(head.softcap)}
        with open(out, "wb") as file:
            write(file, hidden_rows(model, head, inputs, positions), (len(inputs), weight.shape[1]), others, metadata)
    except RequestError:
        raise
    except Exception as error:  # of whatever the architecture's code does with ids alone
        raise RequestError(f"{folder} must be a model of token ids with a linear head, got {type(error).__name__}: {one_line(error)[:200]}") from None


def request(argv: list[str] | None) -> None:
    parser = Parser(prog="lmhead-features", description="Compute features with transformers for lmhead measure.")
    parser.add_argument("folder", metavar="FOLDER", help="in the Hugging Face layout")
    parser.add_argument("--windows", required=True, metavar="FILE", help="the windows' ids")
    parser.add_argument("--out", required=True, metavar="FILE", help="file of features to write")
    arguments = parser.parse_args(argv)
    compute(arguments.folder, arguments.windows, arguments.out)


def main(argv: list[str] | None = None) -> int:
    return carry_out("features", lambda: request(argv))


if __name__ == "__main__":
    sys.exit(main())
