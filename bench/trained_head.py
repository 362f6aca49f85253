"""A trained head with the features of unseen text, for the benchmarks: made once by lmhead, kept under runs/bench-trained-head.

A Llama-style model of width 256 learns the default corpus (V = 32,768) for 300 steps; its export is run by transformers over the
validation tokens. The vocabulary is ordered by frequency in the training tokens, so that rare words share tiles.
"""
import json
import pathlib
import subprocess

import numpy
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runs/bench-trained-head"
SHAPE = (2048, 256, 32768)  # N, D, V
LENGTH = 128
CONFIGURATION = {
    "data": {"path": str(FOLDER / "data"), "sequence_length": LENGTH, "batch_size": 8, "validation_tokens": 4096},
    "model": {"hidden_size": SHAPE[1], "num_hidden_layers": 4, "num_attention_heads": 4},
    "optimizer": {"learning_rate": 0.003},
    "training": {"steps": 300},
}


def lmhead(*arguments) -> None:
    subprocess.run([ROOT / ".venv/bin/lmhead", *map(str, arguments)], check=True)


def make(file: pathlib.Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    print(f"[bench] training the head that the filter is measured on, once, into {FOLDER}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "data/dataset.json").exists():
        lmhead("prepare", FOLDER / "data", "--vocab-size", SHAPE[2])
    (FOLDER / "config.json").write_text(json.dumps(CONFIGURATION))
    lmhead("train", FOLDER / "config.json", "--run", FOLDER / "run")
    lmhead("export", FOLDER / "run", FOLDER / "export")
    train, validation = (numpy.fromfile(FOLDER / "data" / name, dtype="<u2").astype(numpy.int64) for name in ("train.bin", "validation.bin"))
    order = numpy.argsort(-numpy.bincount(train, minlength=SHAPE[2]), kind="stable")
    rank = numpy.argsort(order)
    windows = torch.from_numpy(validation[: SHAPE[0] + 1])
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "export").eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=windows[:-1].view(-1, LENGTH)).last_hidden_state.reshape(-1, SHAPE[1])
        weight = model.get_output_embeddings().weight[torch.from_numpy(order)]
    save_file({"hidden": hidden.contiguous(), "weight": weight.contiguous(), "targets": torch.from_numpy(rank[windows[1:].numpy()])}, file)


def load() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden [N, D], weight [V, D] in order of frequency, targets [N]; made first where they are not there."""
    from safetensors.torch import load_file

    file = FOLDER / "features.safetensors"
    if not file.exists():
        make(file)
    tensors = load_file(file)
    return tensors["hidden"], tensors["weight"], tensors["targets"]
