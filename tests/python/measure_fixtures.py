"""What tests of lmhead measure share: the command as built, a tiny checkpoint, texts. Imported by name into each of them."""

import json
import math
import os
import pathlib
import resource
import struct
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["The quick brown fox jumps over the lazy dog. Ünïcödé – 数学 🙂 ends it.\n" * 3,
         "A second document, a little shorter,\n\nwith an empty line in it.\n" * 4]
PROGRAMS = ("tokenize", "tokenizer", "features", "fetch", "measurement-report")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs lmhead as built, with the Python programs of this tree on the path."""
    built = ROOT / "build" / "release" / "bin" / "lmhead"
    if not built.exists():
        pytest.skip("lmhead is not built")
    folder = tmp_path_factory.mktemp("bin")
    for name in PROGRAMS:
        program = folder / f"lmhead-{name}"
        program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'python')!r})\n"
                           f"from lmhead.__main__ import main\nsys.exit(main([{name!r}, *sys.argv[1:]]))\n")
        program.chmod(0o755)

    def peak(*arguments, limit=None):
        """The most anonymous memory that the run held, in bytes: mapped files are not in it. With a limit the system
        gives the process no more than that of data: what is anonymous, and what it could write of its libraries."""
        process = subprocess.Popen([built, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))))
        most = 0
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
            time.sleep(0.002)
        assert process.wait() == 0
        return most * 1024

    def begin(*arguments):
        return subprocess.Popen([built, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(*arguments, expect=0, cwd=None, **environment):
        path = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run([built, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd,
                              env={**os.environ, "PATH": path, **environment})
        assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    run.peak, run.begin = peak, begin
    return run


def make_tokenizer(folder, vocab_size=300):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, eos_token_id=7))
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    return [folder / f"{index}.txt" for index in range(len(TEXTS))]


def refused(command, *arguments, **environment):
    done = command("measure", *arguments, expect=2, **environment)
    assert done.stderr.startswith("[") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not done.stdout
    return done.stderr


def sparse_checkpoint(folder, *, layers, hidden_size, intermediate_size, heads, key_value_heads, vocab_size, seed=0):
    """A Llama folder in bfloat16 of two shards that take next to nothing on disk: of each matrix only the first rows have
    random numbers, the others are holes, which read as zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    head_dim = hidden_size // heads
    config = {"model_type": "llama", "vocab_size": vocab_size, "hidden_size": hidden_size,
              "intermediate_size": intermediate_size, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": key_value_heads, "tie_word_embeddings": False, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (vocab_size, hidden_size), "model.norm.weight": (hidden_size,),
              "lm_head.weight": (vocab_size, hidden_size)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        keys = key_value_heads * head_dim
        for name, rows, columns in (("self_attn.q_proj", hidden_size, hidden_size), ("self_attn.k_proj", keys, hidden_size),
                                    ("self_attn.v_proj", keys, hidden_size), ("self_attn.o_proj", hidden_size, hidden_size),
                                    ("mlp.gate_proj", intermediate_size, hidden_size),
                                    ("mlp.up_proj", intermediate_size, hidden_size),
                                    ("mlp.down_proj", hidden_size, intermediate_size)):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (hidden_size,)
    generator = torch.Generator().manual_seed(seed)
    names, weight_map = list(shapes), {}
    for number, part in enumerate((names[:len(names) // 2], names[len(names) // 2:]), 1):
        shard, header, end = f"model-{number:05}-of-00002.safetensors", {}, 0
        for name in part:
            size = 2 * math.prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = shard
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / shard, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
            for name in part:
                shape = shapes[name]
                written = torch.ones(shape) if len(shape) == 1 else torch.randn((min(shape[0], 64), shape[1]), generator=generator)
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                scale = 1 if len(shape) == 1 else shape[1] ** -0.5
                file.write((written * scale).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return {"numbers": sum(math.prod(shape) for shape in shapes.values()), "shards": sorted(set(weight_map.values()))}
