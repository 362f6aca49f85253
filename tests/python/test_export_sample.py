"""lmhead export and lmhead sample as processes, against transformers on runs trained for two steps."""

import array
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LMHEAD = ROOT / "build" / "release" / "bin" / "lmhead"
pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")
VOCAB, PROMPT = 64, [1, 8, 43, 26]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "initializer_range": 0.2}
GPT = {"norm": "layernorm", "activation": "gelu", "norm_eps": 1e-3}
LEARNED = {**GPT, "position": "learned", "max_position_embeddings": 48}

# Case name: (the class, options of the model, options of the head).
CASES = {
    "llama": ("LlamaForCausalLM", {}, {}),
    "llama_grouped_tied": ("LlamaForCausalLM", {"num_key_value_heads": 2, "tie_word_embeddings": True,
                                                "rope_theta": 123.5, "norm_eps": 0.01}, {}),
    "llama_biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": 6}, {}),
    "llama_low_rank": ("LlamaForCausalLM", {}, {"type": "low_rank", "rank": 5}),
    "llama_mup": ("LlamaForCausalLM", {"tie_word_embeddings": True}, {"mup_base_width": 11}),
    "llama_tied_at_first": ("LlamaForCausalLM", {"tie_word_embeddings": True}, {"tied_share": 0.5}),
    "llama_tied_to_the_end": ("LlamaForCausalLM", {"tie_word_embeddings": True}, {"tied_share": 0.99}),
    "qwen3": ("Qwen3ForCausalLM", {"qk_norm": True, "num_key_value_heads": 1, "head_dim": 10,
                                   "attention_bias": True}, {}),
    "gpt2": ("GPT2LMHeadModel", {**LEARNED, "attention_bias": True, "mlp_bias": True,
                                 "tie_word_embeddings": True}, {}),
    "gpt2_no_biases_untied": ("GPT2LMHeadModel", LEARNED, {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**GPT, "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}, {}),
    "gpt_neox_no_biases": ("GPTNeoXForCausalLM", GPT, {"mup_base_width": 16}),
}
# Case name: (options of the model, options of the head, what the refusal must name).
REFUSED = {
    "softcap": ({}, {"logit_softcap": 3.0}, "head.logit_softcap must be 0"),
    "bias": ({}, {"bias": True}, "head.bias must be false"),
    "sigmoid_cap": ({}, {"sigmoid_cap": [23, 5, 7.5]}, "logits must be linear"),
    "sigsoftmax": ({}, {"type": "sigsoftmax"}, "logits must be linear"),
    "piecewise_linear": ({}, {"type": "piecewise_linear"}, "head.type must be one whose logits are a linear map"),
    "mixture": ({}, {"type": "mixture_of_softmaxes", "components": 2}, "head.type must be one whose logits are a linear map"),
    "copy": ({"tie_word_embeddings": True}, {"type": "copy", "width": 4}, "head.type must be one whose logits are a linear map"),
    "post": ({"norm_position": "post"}, {}, "model.norm_position must be \"pre\""),
    "no_positions": ({"position": "none"}, {}, "model.position must be"),
    "layernorm_swiglu": ({"norm": "layernorm"}, {}, "model.norm must be \"rmsnorm\""),
    "qk_norm_mlp_bias": ({"qk_norm": True, "mlp_bias": True}, {}, "model.qk_norm must be false"),
}


def call(*arguments, code=0, path=None):
    environment = dict(os.environ, OMP_NUM_THREADS="1", **({"PATH": str(path)} if path else {}))
    done = subprocess.run([LMHEAD, *map(str, arguments)], capture_output=True, text=True, env=environment,
                          timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def write_dataset(folder, tokenizer=None):
    """Noisy repetitions over 64 ids; with a tokenizer of one word an id where that is asked for."""
    folder.mkdir()
    splits = {}
    for split, count in (("train", 3000), ("validation", 300)):
        draw, ids = random.Random(split), [1]
        while len(ids) < count:
            ids.append(draw.randrange(VOCAB) if draw.random() < 0.2 else (ids[-1] * 5 + 3) % VOCAB)
        (folder / f"{split}.bin").write_bytes(array.array("H", ids).tobytes())
        splits[split] = {"file": f"{split}.bin", "tokens": count, "bytes": 2 * count, "documents": 1,
                         "sha256": hashlib.sha256((folder / f"{split}.bin").read_bytes()).hexdigest()}
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "dataset.json").write_text(json.dumps({
        "format": "lmhead-dataset", "version": 1, "vocab_size": VOCAB, "token_type": "uint16",
        "tokenizer": tokenizer and "tokenizer.json", "tokenizer_hash": "hash" if tokenizer else "bytes",
        "end_of_document": 0 if tokenizer else None, "splits": splits, "content_hash": "content"}))


def word_tokenizer():
    import tokenizers
    words = {"<|endoftext|>": 0, **{f"w{index}": index for index in range(1, VOCAB)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str()


def train(folder, data, model=None, head=None):
    configuration = {"data": {"path": str(data), "sequence_length": 32, "batch_size": 4, "validation_tokens": 64},
                     "model": {**SIZES, **(model or {})}, "head": head or {}, "optimizer": {"learning_rate": 0.05},
                     "training": {"steps": 2, "threads": 1}, "observe": {"gradient_retention": {"every": 0}}}
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(configuration))
    call("train", file, "--run", folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "data"
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name, model, head):
        if name not in made:
            made[name] = train(folder / name, data, model, head)
        return made[name]
    return run


@pytest.fixture
def helper_path(tmp_path):
    """A folder with the program lmhead-tokenizer, as the setup makes it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "lmhead-tokenizer"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'python')!r})\n"
                       "from lmhead.__main__ import main\nsys.exit(main(['tokenizer', *sys.argv[1:]]))\n")
    program.chmod(0o755)
    return folder


def sample(model, *arguments, **options):
    return call("sample", model, *arguments, **options).stdout


def greedy_ids(model, prompt, count):
    printed = sample(model, "--prompt-ids", ",".join(map(str, prompt)), "--ids", "--temperature", 0,
                     "--max-new-tokens", count)
    return [int(text) for text in printed.strip().split(",")]


@pytest.mark.parametrize("name", CASES)
def test_transformers_computes_what_the_run_does(name, runs, tmp_path):
    architecture, model_options, head = CASES[name]
    run, exported = runs(name, model_options, head), tmp_path / "exported"
    assert architecture in call("export", run, exported).stdout
    model, info = transformers.AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert type(model).__name__ == architecture and model.dtype == torch.float32
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]

    # The run itself goes on as transformers does with the export, and so does the export when it is read back.
    prompt = torch.tensor([PROMPT])
    continued = model.generate(prompt, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, len(PROMPT):].tolist()
    assert greedy_ids(run, PROMPT, 30) == continued
    assert greedy_ids(exported, PROMPT, 30) == continued


@pytest.mark.parametrize("name", CASES)
def test_logits_agree_to_five_digits(name, runs, tmp_path):
    tests = LMHEAD.parent / "test_run"
    if not tests.exists():
        pytest.skip("test_run is not built")
    run, exported = runs(name, *CASES[name][1:]), tmp_path / "exported"
    call("export", run, exported)
    environment = dict(os.environ, OMP_NUM_THREADS="1", LMHEAD_RUN=str(run), LMHEAD_LOGITS=str(tmp_path / "logits"))
    subprocess.run([tests, "--gtest_filter=TrainedModel.WritesTheLogitsOfTheRunGiven", "--gtest_brief=1"],
                   env=environment, check=True, capture_output=True)
    got = load_file(tmp_path / "logits")
    with torch.no_grad():
        want = transformers.AutoModelForCausalLM.from_pretrained(exported)(got["tokens"]).logits
    assert (got["logits"].view_as(want) - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_class_expresses_is_refused_by_name(name, runs, tmp_path):
    model, head, message = REFUSED[name]
    run = runs(name, model, head)
    error = call("export", run, tmp_path / "exported", code=2).stderr
    assert message in error and "lmhead sample" in error
    assert not any(path.name.startswith("exported") for path in tmp_path.iterdir())
    assert len(greedy_ids(run, PROMPT, 3)) == 3  # as the refusal promises


def test_a_checkpoint_is_exported_and_an_export_replaced(runs, tmp_path):
    run, exported = runs("llama", *CASES["llama"][1:]), tmp_path / "deep" / "exported"
    checkpoint = next((run / "checkpoints").glob("step-*"))
    call("export", f"{checkpoint}/", f"{exported}/")
    first = (exported / "model.safetensors").read_bytes()
    call("export", run, exported)
    assert (exported / "model.safetensors").read_bytes() == first
    assert sorted(path.name for path in exported.iterdir()) == ["config.json", "generation_config.json",
                                                                "model.safetensors"]


def test_the_folders_of_others_are_left_alone(runs, tmp_path):
    run = runs("llama", *CASES["llama"][1:])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    assert "foreign" in call("export", run, foreign, code=2).stderr
    assert (foreign / "thesis.txt").read_text() == "years of work"
    call("export", run, run, code=2)

    exported = tmp_path / "exported"
    call("export", run, exported)
    transformers.AutoModelForCausalLM.from_pretrained(exported).save_pretrained(exported)  # fine-tuned, say
    call("export", run, exported, code=2)
    call("export", run, tmp_path / "nowhere" / ".." / "foreign" / "thesis.txt", code=2)
    (tmp_path / "link").symlink_to(foreign)
    call("export", run, tmp_path / "link", code=2)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_text_goes_through_the_runs_tokenizer(tmp_path, helper_path):
    write_dataset(tmp_path / "data", word_tokenizer())
    run, exported = train(tmp_path / "run", tmp_path / "data"), tmp_path / "exported"
    assert "with its tokenizer" in call("export", run, exported).stdout
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.eos_token_id == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    assert model.generation_config.eos_token_id == 0

    prompt = " ".join(f"w{index}" for index in PROMPT)
    want = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12, do_sample=False,
                          pad_token_id=0)[0, len(PROMPT):].tolist()
    text = tokenizer.decode(want, skip_special_tokens=True)
    for folder in (run, exported):
        printed = sample(folder, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 12, path=helper_path)
        assert printed.strip() == text
    # Without the helper ids still work, and text is refused with the way out.
    assert greedy_ids(run, PROMPT, 12) == want
    assert "--prompt-ids" in call("sample", run, "--prompt", prompt, code=2, path=tmp_path).stderr
    # A tokenizer that is another one by now is not passed on.
    sidecar = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**sidecar, "tokenizer_hash": "other"}))
    assert "no tokenizer" in call("export", run, exported).stderr
    assert not (exported / "tokenizer.json").exists()


def test_text_of_a_model_never_reaches_a_terminal_as_control_characters(runs):
    run = runs("bytes", {"vocab_size": 256}, {})  # ids are bytes, and an untrained model says all of them
    arguments = [LMHEAD, "sample", run, "--prompt-ids", "65", "--max-new-tokens", "900", "--temperature", "3"]

    def printed(*more):
        return subprocess.run([*arguments, *more], capture_output=True, timeout=120, check=True).stdout
    raw, text = printed("--raw"), printed().decode("utf-8")
    assert raw == bytes(map(int, printed("--ids").split(b","))) + b"\n"
    obeyed = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))} - {"\n", "\t"}
    assert b"\x1b" in raw and "\\x1b" in text and b"\n" in raw[:-1] and not obeyed & set(text)
    assert text.count("\n") == raw.count(b"\n")


def test_the_seed_decides_and_top_k_one_is_greedy(runs):
    run = runs("llama", *CASES["llama"][1:])

    def drawn(*arguments):
        return sample(run, "--prompt-ids", "1,8", "--ids", "--max-new-tokens", 20, *arguments)
    assert drawn("--seed", 1) == drawn("--seed", 1) != drawn("--seed", 2)
    assert drawn("--top-k", 1) == drawn("--temperature", 0) == drawn("--top-p", 1e-9)


@pytest.mark.parametrize("arguments", [["--prompt-ids", "1,64"], ["--prompt-ids", "-1"], ["--prompt-ids", "x"], [],
                                       ["--prompt", "a", "--prompt-ids", "1"], ["--prompt", "no tokenizer"],
                                       ["--prompt-ids", "1", "--temperature", "-1"],
                                       ["--prompt-ids", "1", "--top-p", "0"], ["--prompt-ids", "1", "--top-k", "-2"]])
def test_mistakes_are_told(arguments, runs):
    error = call("sample", runs("llama", *CASES["llama"][1:]), *arguments, code=2).stderr
    assert error.startswith("[") and error.count("\n") == 1


def test_models_that_are_none_are_told(tmp_path):
    for verb in (["sample", tmp_path, "--prompt-ids", "1"], ["sample", tmp_path / "none", "--prompt-ids", "1"],
                 ["export", tmp_path, tmp_path / "exported"]):
        error = call(*verb, code=2).stderr
        assert str(tmp_path) in error and error.count("\n") == 1


def test_tinystories_goes_on_as_published(shared_data, helper_path):
    model = shared_data / "models" / "TinyStories-656K"
    golden = json.loads((shared_data / "reference" / "TinyStories-656K.float64.json")
                        .read_text())["greedy_from_Once_upon_a_time"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    prompt = tokenizer("Once upon a time").input_ids
    arguments = ["--temperature", 0, "--max-new-tokens", len(golden) - len(prompt), "--prompt", "Once upon a time"]
    printed = sample(model, *arguments, "--ids", path=helper_path)
    assert prompt + [int(text) for text in printed.split(",")] == golden
    whole = tokenizer.decode(golden, skip_special_tokens=True)
    behind = whole[len(tokenizer.decode(prompt, skip_special_tokens=True)):]
    assert sample(model, *arguments, path=helper_path) == behind + "\n"


def test_characters_are_printed_whole():
    sys.path.insert(0, str(ROOT / "python"))
    tokenizers = pytest.importorskip("tokenizers")
    from lmhead.prepare.tokenizer import StreamDecoder
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    text = "naïve 文字 🎈 end"
    ids = tokenizer.encode(text).ids
    for start in (0, 1, 5):
        decoder = StreamDecoder(tokenizer, ids[:start])
        pieces = [decoder.add(token) for token in [*ids[start:], None]]
        assert "".join(pieces) == tokenizer.decode(ids)[len(tokenizer.decode(ids[:start])):]
        assert not any("\ufffd" in piece for piece in pieces)
