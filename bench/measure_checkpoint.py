#!/usr/bin/env python3
"""Times `lmhead measure` of a checkpoint beside the plain way: features by transformers, the head in float64.

Both measure loss and retained energy of the same ids on one random model, stored in bfloat16, in windows of 1024 tokens. Each runs in a process of its own,
in turn, round by round; the ratio is the median over rounds. Ours is timed from the start of its process to the end; the plain way without its imports and
with its logits in float64 in blocks of 512 tokens, so that it is not slow for want of memory. Before anything is timed figures must agree: in float32 within
1e-5, in bfloat16 both within 0.02 of those in float32. Memory is the most that a process held resident, libraries included.

`--whole` says how long a checkpoint takes that is too large to be made here: models of its sizes with one layer and with a few more are measured, and
what a layer more costs stands for each of the others.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import process_memory
import result_rows

ROOT = result_rows.ROOT
SHAPES = {
    "smollm2-135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
                     "max_position_embeddings": 8192, "rope_theta": 100000.0, "tie_word_embeddings": True},
    "tiny": {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 1024, "tie_word_embeddings": False},
}
LARGE = {  # sizes as published in their configurations
    "llama-3.1-8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-3.1-70b": {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 9, "num_attention_heads": 4, "num_key_value_heads": 2},
}
WINDOW = 1024
PRECISIONS = {"float32": {"loss": 1e-5, "retained_energy": 1e-5}, "bfloat16": {"loss": 0.02, "retained_energy": 0.02}}


def write_model(folder, shape, tokens):
    import numpy
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES[shape], initializer_range=0.05, bos_token_id=None, eos_token_id=None))
    model.to(torch.bfloat16).save_pretrained(folder)
    numpy.random.default_rng(0).integers(0, SHAPES[shape]["vocab_size"], tokens + 1).astype("<u2").tofile(folder / "ids.bin")


def write_layers(folder, shape, layers, tokens):
    """A random Llama folder in bfloat16, one tensor at a time."""
    import numpy
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.LlamaConfig(**LARGE[shape] | {"num_hidden_layers": layers}, max_position_embeddings=WINDOW, bos_token_id=None, eos_token_id=None)
    with torch.device("meta"):
        tensors = transformers.LlamaForCausalLM(config).state_dict()
    folder.mkdir()
    config.save_pretrained(folder)
    generator, weight_map = torch.Generator().manual_seed(0), {}
    for number, (name, tensor) in enumerate(tensors.items()):
        values = torch.ones(tensor.shape, dtype=torch.bfloat16)
        if values.dim() == 2:
            values.normal_(0, 0.02, generator=generator)
        weight_map[name] = f"model-{number + 1:05}-of-{len(tensors):05}.safetensors"
        save_file({name: values}, folder / weight_map[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    numpy.random.default_rng(0).integers(0, config.vocab_size, tokens + 1).astype("<u4").tofile(folder / "ids.bin")


def time_of_whole(shape, arguments):
    """Prints and keeps the seconds of every size that is measured, and of the whole by them."""
    few, more = 1, 1 + arguments.layers_more
    for precision in [arguments.precision] if arguments.precision else PRECISIONS:
        found = {}
        for layers in (few, more):
            with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
                folder = pathlib.Path(scratch) / "model"
                write_layers(folder, shape, layers, arguments.tokens)
                found[layers] = run("lmhead", folder, precision, arguments.threads, "uint32")
        layer = (found[more]["seconds"] - found[few]["seconds"]) / (more - few)
        whole = found[few]["seconds"] + (LARGE[shape]["num_hidden_layers"] - few) * layer
        print(f"{shape}, {arguments.tokens} tokens, {precision}, {arguments.threads} threads: {found[few]['seconds']:.1f} s with {few} layer, {layer:.2f} s a layer more, "
              f"{whole / 60:.1f} minutes for all {LARGE[shape]['num_hidden_layers']}; {found[more]['memory'] / 2**30:.2f} GiB", flush=True)
        result_rows.append(result_rows.file_of(arguments, "measure_checkpoint"), [
            {"benchmark": "measure_checkpoint_whole", "shape_name": shape, "shape": LARGE[shape], "tokens": arguments.tokens, "threads": arguments.threads, "precision": precision,
             "unit": "seconds", "measured": {layers: one["seconds"] for layers, one in found.items()}, "a_layer_more": layer, "whole": whole,
             "memory": found[more]["memory"]}])


def plain_figures(folder, precision):
    """Loss and retained energy, and the seconds that they took."""
    import numpy
    import torch
    import transformers

    ids = torch.from_numpy(numpy.fromfile(folder / "ids.bin", dtype="<u2").astype(numpy.int64))
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    with torch.no_grad():
        weight = model.lm_head.weight.double()
        basis = torch.linalg.qr(weight)[0]
        loss = energy = kept = 0.0
        for first in range(0, len(ids) - 1, WINDOW):
            window = ids[first:first + WINDOW + 1]
            features = model.model(window[None, :-1]).last_hidden_state[0]
            for row in range(0, len(features), 512):
                hidden, targets = features[row:row + 512].double(), window[row + 1:row + 513]
                log_p = torch.log_softmax(hidden @ weight.T, 1)
                gradient = log_p.exp()
                gradient[torch.arange(len(targets)), targets] -= 1
                loss -= log_p[torch.arange(len(targets)), targets].sum().item()
                energy += gradient.square().sum().item()
                kept += (gradient @ basis).square().sum().item()
    return {"seconds": time.perf_counter() - start, "loss": loss / (len(ids) - 1), "retained_energy": kept / energy}


def run(name, folder, precision, threads, token_type="uint16"):
    """What an entrant's process found, how long it took and the most that it held."""
    out = folder / "out.json"
    if name == "lmhead":
        command = [ROOT / ".venv/bin/lmhead", "measure", folder, "--tokens", folder / "ids.bin", "--token-type", token_type, "--precision", precision,
                   "--sequence-length", str(WINDOW), "--only", "quality", "gradient_retention", "--json", out]
    else:
        command = [sys.executable, __file__, "--plain", folder, "--precision", precision, "--threads", str(threads)]
    with open(os.devnull if name == "lmhead" else out, "w") as to:
        done = process_memory.run(command, stdout=to, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done["returncode"] != 0:
        raise SystemExit(f"[bench] {name} must measure the checkpoint, got: " + (done["stderr"].strip().splitlines() or ["nothing"])[-1])
    found = json.loads(out.read_text())
    if name == "lmhead":
        [model] = found["models"]
        found = {"seconds": done["seconds"], "loss": model["quality"]["loss"], "retained_energy": model["gradient_retention"]["retained_energy"]}
    return found | {"memory": done["memory"]}


def check(found, wanted, precision, who):
    for key, most in PRECISIONS[precision].items():
        if not abs(found[key] - wanted[key]) <= most:
            raise SystemExit(f"[bench] {key} of {who} in {precision} must be within {most} of {wanted[key]}, got {found[key]}")


def line(row):
    return (f"| {row['shape_name']} | {row['tokens']} | {row['precision']} | {row['lmhead']:.2f} s | {row['plain']:.2f} s | {row['ratio']:.2f} x | "
            f"{row['memory']['lmhead'] / 2**30:.2f} GiB | {row['memory']['plain'] / 2**30:.2f} GiB | {row['memory_ratio']:.2f} x |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=result_rows.torch.get_num_threads())
    parser.add_argument("--precision", choices=list(PRECISIONS), help="one of them alone (default: both)")
    parser.add_argument("--whole", nargs="+", choices=list(LARGE), metavar="SHAPE", help=f"how long these would take, in place of the rest: {', '.join(LARGE)}")
    parser.add_argument("--layers-more", type=int, default=1, help="layers of the second model of --whole beyond the first (default: 1)")
    parser.add_argument("--scratch", type=pathlib.Path, help="folder for models of --whole, some GB each (default: the system's)")
    parser.add_argument("--plain", type=pathlib.Path, help=argparse.SUPPRESS)
    result_rows.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.plain:
        result_rows.torch.set_num_threads(arguments.threads)
        import transformers

        transformers.utils.logging.disable_progress_bar()
        print(json.dumps(plain_figures(arguments.plain, arguments.precision)))
        return
    for shape in arguments.whole or ():
        time_of_whole(shape, arguments)
    if arguments.whole:
        return
    entrants = ("lmhead", "plain")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_model(folder, arguments.shape, arguments.tokens)
        wanted = run("plain", folder, "float32", arguments.threads)
        print(f"{arguments.shape}, {arguments.tokens} tokens, {arguments.threads} threads")
        print("| shape | tokens | precision | lmhead | plain | time | lmhead | plain | memory |\n|---|---|---|---|---|---|---|---|---|")
        for precision in [arguments.precision] if arguments.precision else PRECISIONS:
            for name in entrants:
                check(run(name, folder, precision, arguments.threads), wanted, precision, name)
            rounds = [{name: run(name, folder, precision, arguments.threads) for name in entrants} for _ in range(arguments.rounds)]
            ratios = [one["plain"]["seconds"] / one["lmhead"]["seconds"] for one in rounds]
            memory = {name: max(one[name]["memory"] for one in rounds) for name in entrants}
            row = {"benchmark": "measure_checkpoint", "shape_name": arguments.shape, "shape": SHAPES[arguments.shape], "tokens": arguments.tokens, "threads": arguments.threads,
                   "precision": precision, "rounds": arguments.rounds, "unit": "seconds", "ratio": statistics.median(ratios), "ratio_quantiles": [min(ratios), max(ratios)],
                   "memory": memory, "memory_ratio": memory["lmhead"] / memory["plain"], "figures": {key: wanted[key] for key in ("loss", "retained_energy")}}
            row |= {name: statistics.median(one[name]["seconds"] for one in rounds) for name in entrants}
            print(line(row), flush=True)
            result_rows.append(result_rows.file_of(arguments, "measure_checkpoint"), [row])


if __name__ == "__main__":
    main()
