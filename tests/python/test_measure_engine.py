"""lmhead measure --engine transformers: the native figures of features that transformers computes."""

import json
import shutil

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
from measure_fixtures import checkpoint, command, make_tokenizer, refused, text_files  # noqa: E402, F401
from test_families import CASES, VOCAB, make_checkpoint  # noqa: E402

FIGURES = [("quality", "loss"), ("quality", "bits_per_byte"), ("gradient_retention", "destroyed_ratio"),
           ("gradient_retention", "null_destroyed_ratio"), ("gradient_retention", "step_cosine"),
           ("gradient_spectrum", "best_retained_energy"), ("token_breakdown", "mean"), ("head_spectrum", "condition")]
FAMILIES = ["qwen3_moe_mixed", "cohere2_biases"]  # slow/test_measure_engine_families.py has more
OTHERS = {"olmo": dict(vocab_size=320, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
                       pad_token_id=None),
          "mamba": dict(vocab_size=320, hidden_size=24, state_size=4, num_hidden_layers=2, expand=2)}


def measured(command, out, *arguments):
    done = command("measure", *arguments, "--json", out)
    result = json.loads(out.read_text())
    return done, result, result["models"][0]


def check_equal(got, expected, tolerance=2e-5):
    for group, key in FIGURES:
        if expected[group].get(key) is None:
            assert got[group].get(key) is None, (group, key)
        else:
            assert got[group][key] == pytest.approx(expected[group][key], rel=tolerance, abs=tolerance), (group, key)


def test_a_family_has_the_same_figures_through_either(command, checkpoint, text_files, tmp_path):
    for options in ([], ["--sequence-length", 16, "--bos", "every-window"], ["--max-tokens", 30, "--float64"]):
        _, native, expected = measured(command, tmp_path / "a.json", checkpoint, *options, "--text", *text_files)
        done, foreign, got = measured(command, tmp_path / "b.json", checkpoint, "--engine", "transformers", *options, "--text", *text_files)
        check_equal(got, expected)
        assert "bits_per_byte" in expected["quality"] and expected.keys() == got.keys()
        for key in ("model", "kind", "family", "tokens", "sequence_length", "hidden_size", "vocab_size"):
            assert got[key] == expected[key], key
        assert (native["engine"], foreign["engine"]) == ("native", "transformers")
        errors = [(one["token_breakdown"]["standard_error"] or {}).get("documents") for one in (got, expected)]
        assert errors[0] == errors[1]
        assert f"features by transformers {transformers.__version__}" in done.stderr


def check_family(command, tmp_path, name):
    make_checkpoint(tmp_path / name, *CASES[name])
    # Windows as long as each other: transformers keeps the dynamic frequencies of the longest sequence that it has seen.
    ids = np.random.default_rng(0).integers(0, VOCAB, 121)
    ids.astype("<u2").tofile(tmp_path / "ids.bin")
    options = ["--sequence-length", 20, "--tokens", tmp_path / "ids.bin", "--token-type", "uint16"]
    _, _, expected = measured(command, tmp_path / "a.json", tmp_path / name, "--engine", "transformers", *options)
    _, _, got = measured(command, tmp_path / "b.json", tmp_path / name, *options)
    check_equal(got, expected, tolerance=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_figures_of_transformers(command, tmp_path, name):
    check_family(command, tmp_path, name)


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_architecture(command, text_files, tmp_path, name):
    torch.manual_seed(2)
    config = transformers.AutoConfig.for_model(name, **OTHERS[name])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    folder = tmp_path / name
    model.save_pretrained(folder)
    make_tokenizer(folder)
    line = refused(command, folder, "--text", *text_files)
    assert f'got "{name}"' in line and "--engine transformers" in line
    _, _, got = measured(command, tmp_path / "out.json", folder, "--engine", "transformers", "--sequence-length", 16, "--text", text_files[0])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text_files[0].read_text(encoding="utf-8")).ids
    losses = []
    for at in range(0, len(ids) - 1, 16):
        window = torch.tensor([ids[at:at + 17]])
        with torch.no_grad():
            logits = model(window[:, :-1]).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none"))
    assert got["quality"]["loss"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)
    assert got["family"] == name and 0 < got["gradient_retention"]["destroyed_ratio"] < 1


def test_what_cannot_be_measured_is_one_line(command, checkpoint, text_files, tmp_path):
    def said(folder, *options):
        done = command("measure", folder, "--engine", "transformers", *options, "--text", *text_files, expect=2)
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("[features] ") or "features by" not in line]
        assert len(lines) == 1 and not done.stdout, done.stderr
        return lines[0]

    assert "Hugging Face layout for --engine transformers" in said(checkpoint / "model.safetensors")
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    from safetensors.torch import load_file, save_file
    weights = load_file(broken / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layers.1.mlp" not in name}, broken / "model.safetensors", {"format": "pt"})
    assert "must have all weights" in said(broken)
    torch.save(weights, broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    assert "must be a model that transformers reads" in said(broken)  # never pickled weights
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "vit", "vocab_size": 320}))
    assert "must be a model that transformers reads" in said(other)
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "vocab_size must be an integer" in said(other)
    assert "must be given" in command("measure", checkpoint, "--engine", "transformers", expect=2).stderr
