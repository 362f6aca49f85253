"""lmhead measure and lmhead inspect, whole: tiny checkpoints of transformers against float64 NumPy, hostile input."""

import json
import os
import pathlib

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
from measure_fixtures import TEXTS, checkpoint, command, make_tokenizer, refused, text_files  # noqa: E402, F401
from safetensors.torch import load_file, save_file  # noqa: E402


def features_of(folder, documents, length):
    """Features and targets of consecutive windows, by transformers in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    hidden, targets = [], []
    with torch.no_grad():
        for ids in documents:
            for start in range(0, len(ids) - 1, length):
                window = ids[start:start + length + 1]
                inputs = torch.tensor([window[:-1]], dtype=torch.long)
                hidden.append(model.model(inputs).last_hidden_state[0].double().numpy())
                targets.append(np.array(window[1:]))
    return np.concatenate(hidden), np.concatenate(targets), model.lm_head.weight.detach().double().numpy()


def expected_figures(hidden, targets, weight, bias=0.0):
    """The glossary's formulae, spelled out in float64."""
    logits = hidden @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[np.arange(len(targets)), targets] -= 1
    basis = np.linalg.qr(weight)[0] if weight.shape[0] > weight.shape[1] else np.eye(weight.shape[0])
    kept, step = gradient @ basis, gradient @ weight @ weight.T
    energy = (kept**2).sum() / (gradient**2).sum()
    return {"loss": -log_p[np.arange(len(targets)), targets].mean(), "retained_energy": energy,
            "destroyed_ratio": np.sqrt(1 - energy),
            "null_destroyed_ratio": np.sqrt(1 - weight.shape[1] / weight.shape[0]),
            "step_cosine": (gradient * step).sum() / np.linalg.norm(gradient) / np.linalg.norm(step),
            "fractions": 1 - (kept**2).sum(1) / (gradient**2).sum(1)}


def check(got, expected, tolerance):
    assert got["quality"]["loss"] == pytest.approx(expected["loss"], abs=tolerance)
    for key in ("retained_energy", "destroyed_ratio", "null_destroyed_ratio", "step_cosine"):
        assert got["gradient_retention"][key] == pytest.approx(expected[key], abs=tolerance), key


def measured(command, tmp_path, *arguments):
    out = tmp_path / "out.json"
    command("measure", *arguments, "--json", out)
    return json.loads(out.read_text())["models"]


@pytest.mark.parametrize("length", [16, 64])
def test_text_gives_the_figures_of_a_float64_computation(command, checkpoint, text_files, tmp_path, length):
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    documents = [tokenizer.encode(text).ids for text in TEXTS]
    expected = expected_figures(*features_of(checkpoint, documents, length))
    [got] = measured(command, tmp_path, checkpoint, "--sequence-length", length, "--text", *text_files)
    check(got, expected, 1e-5)
    assert got["tokens"] == sum(len(ids) - 1 for ids in documents)
    # The template's first token stands for no text, so every byte is scored.
    size = sum(len(text.encode()) for text in TEXTS)
    assert got["quality"]["bits_per_byte"] == pytest.approx(expected["loss"] * got["tokens"] / np.log(2) / size, rel=1e-5)
    assert got["token_breakdown"]["standard_error"]["documents"] == 2
    levels = {float(level): value for level, value in got["token_breakdown"]["quantiles"].items()}
    assert levels[0.5] == pytest.approx(np.quantile(1 - expected["fractions"], 0.5), abs=0.01)


def test_token_files_by_document_and_not(command, checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(8, 320, 200)
    ids[[30, 31, 90, 150]] = 7  # eos_token_id of the model's config
    ids.astype("<u2").tofile(tmp_path / "ids.bin")
    pieces = [list(piece) for piece in np.split(ids, [31, 32, 91, 151])]
    arguments = (checkpoint, "--tokens", tmp_path / "ids.bin", "--sequence-length", 24, "--only", "quality",
                 "gradient_retention")
    [by_document] = measured(command, tmp_path, *arguments, "--by-document")
    check(by_document, expected_figures(*features_of(checkpoint, pieces, 24)), 1e-5)
    [whole] = measured(command, tmp_path, *arguments)
    check(whole, expected_figures(*features_of(checkpoint, [list(ids)], 24)), 1e-5)
    assert whole["tokens"] == 199 and by_document["tokens"] == 195
    assert whole["quality"]["bits_per_byte"] is None


def test_jsonl_lines_are_documents_and_max_tokens_stops(command, checkpoint, tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    ids = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(TEXTS[0]).ids
    [got] = measured(command, tmp_path, checkpoint, "--text", lines, "--max-tokens", 20, "--only", "quality")
    expected = expected_figures(*features_of(checkpoint, [ids[:21]], 64))
    assert got["tokens"] == 20
    assert got["quality"]["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_texts_are_read_as_they_are_asked_for(command, checkpoint, tmp_path):
    """Every way of writing the same documents gives the same figures as lines of JSON."""
    def losses(path, *options):
        [got] = measured(command, tmp_path, checkpoint, "--only", "quality", *options, "--text", path)
        return got["tokens"], got["quality"]["loss"]

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    def lines(key):
        return "".join(json.dumps({key: text}) + "\n" for text in TEXTS).encode()

    expected = losses(write("a.jsonl", lines("text")))
    assert losses(write("b.jsonl", lines("--story")), "--text-field=--story") == expected
    assert losses(write("c.txt", "<|endoftext|>".join(TEXTS).encode()), "--split-at", "<|endoftext|>") == expected
    assert losses(write("d.jsonl", lines("text").decode().encode("utf-16")), "--encoding", "utf-16") == expected
    (tmp_path / "folder").mkdir()
    write("folder/e.jsonl", lines("text")), write("folder/e.other", b"not this")
    assert losses(tmp_path / "folder") == expected
    write("folder/f.ndjson", lines("text")), (tmp_path / "folder" / "e.jsonl").unlink()
    assert losses(tmp_path / "folder", "--suffix", ".md", "--suffix", ".ndjson") == expected
    for line in ("utf-16 reads it", "'b.jsonl:1"):
        path = tmp_path / ("d.jsonl" if line.startswith("utf") else "b.jsonl")
        assert line.strip("'") in refused(command, checkpoint, "--text", path)
    assert "requires --text" in refused(command, checkpoint, "--tokens", tmp_path / "a.jsonl", "--encoding", "latin-1")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)])
def test_exported_features(command, tmp_path, dtype, tolerance):
    torch.manual_seed(1)
    hidden, weight = torch.randn(900, 12).to(dtype), torch.randn(70, 12).to(dtype)
    bias, targets = torch.randn(70).to(dtype), torch.randint(0, 70, (900,), dtype=torch.int32)
    targets[5] = -100
    file = tmp_path / "features.safetensors"
    save_file({"hidden": hidden, "weight": weight, "bias": bias, "targets": targets}, file)
    keep = (targets != -100).numpy()
    expected = expected_figures(hidden.double().numpy()[keep], targets.long().numpy()[keep], weight.double().numpy(),
                                bias.double().numpy())
    [got] = measured(command, tmp_path, file)
    check(got, expected, tolerance)
    assert got["tokens"] == 899 and got["family"] is None
    [in_float64] = measured(command, tmp_path, file, "--float64", "--only", "quality", "gradient_retention")
    check(in_float64, expected, 1e-9)


def test_a_run_and_its_checkpoints(command, tmp_path):
    configuration = {"data": {"kind": "spamlang", "sequence_length": 8, "batch_size": 4, "validation_tokens": 64,
                              "spamlang": {"vocab_size": 50}},
                     "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
                     "head": {"type": "low_rank", "rank": 3},
                     "training": {"steps": 4, "checkpoint_every": 2, "validate_every": 2, "keep_last": 2, "threads": 1}}
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    run = tmp_path / "run"
    command("train", tmp_path / "config.json", "--run", run)
    np.arange(40).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = ("--tokens", tmp_path / "ids.bin", "--sequence-length", 8, "--only", "gradient_retention")
    models = measured(command, tmp_path, run, "--all-checkpoints", *arguments)
    assert [model["step"] for model in models] == [2, 4]
    assert [model["training_tokens"] for model in models] == [64, 128]
    assert all(model["gradient_retention"]["head_rank"] == 3 and model["family"] == "low_rank" for model in models)
    [newest] = measured(command, tmp_path, run, *arguments)
    [same] = measured(command, tmp_path, run / "checkpoints" / "step-00000004", *arguments)
    assert newest["gradient_retention"] == same["gradient_retention"] == models[1]["gradient_retention"]
    names = {tensor["name"] for tensor in json.loads(command("inspect", run, "--json").stdout)["tensors"]}
    assert "model.embed_tokens.weight" in names


def test_a_run_whose_head_is_no_linear_map_is_measured_as_far_as_that_goes(command, tmp_path):
    configuration = {"data": {"kind": "spamlang", "sequence_length": 8, "batch_size": 4, "validation_tokens": 64,
                              "spamlang": {"vocab_size": 50}},
                     "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                               "tie_word_embeddings": False},
                     "head": {"type": "expanded", "width": 24, "activation": "gelu"},
                     "training": {"steps": 2, "threads": 1}}
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    command("train", tmp_path / "config.json", "--run", tmp_path / "run")
    np.arange(40).astype("<u2").tofile(tmp_path / "ids.bin")
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    done = command("measure", tmp_path / "run", "--tokens", tmp_path / "ids.bin", "--sequence-length", 8, "--json", out,
                   "--html", page)
    [got] = json.loads(out.read_text())["models"]
    assert got["quality"]["loss"] > 0 and got["tokens"] == 39 and got["family"] == "expanded"
    assert got["token_breakdown"]["by_position"][0]["retained_energy"] is None
    assert "gradient_retention" in got["left_out"]["diagnostics"] and "gradient_retention" not in got
    assert "left out, since the head is no linear map" in done.stdout
    assert "left out, since the head is no linear map" in page.read_text()


def test_inspect_lists_what_the_file_holds(command, checkpoint):
    listed = json.loads(command("inspect", checkpoint, "--json").stdout)
    tensors = load_file(checkpoint / "model.safetensors")
    assert {one["name"]: one["shape"] for one in listed["tensors"]} == {name: list(t.shape) for name, t in tensors.items()}
    assert all(one["dtype"] == "F32" and one["bytes"] == 4 * int(np.prod(one["shape"])) for one in listed["tensors"])
    assert listed["configuration"]["hidden_size"] == 32
    assert "lm_head.weight" in command("inspect", checkpoint / "model.safetensors").stdout


def test_wrong_requests_get_one_line_and_exit_code_2(command, checkpoint, text_files, tmp_path):
    np.array([1, 2, 320], "<u2").tofile(tmp_path / "ids.bin")
    assert "below the vocabulary size 320, got 320" in refused(command, checkpoint, "--tokens", tmp_path / "ids.bin")
    assert "text or tokens must be given" in refused(command, checkpoint)
    assert "got nothing at" in refused(command, "no/such/folder", "--text", text_files[0])
    assert "nowhere.txt" in refused(command, checkpoint, "--text", tmp_path / "nowhere.txt")
    small = tmp_path / "small"
    small.mkdir()
    for file in checkpoint.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    make_tokenizer(small, 330)
    message = refused(command, small, "--text", text_files[0])
    assert "below the head's 320, got id 3" in message and "tokenizer.json" in message
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"][4, 2] = float("nan")
    save_file(tensors, small / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" in refused(command, small, "--text", text_files[0])
    configuration = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**configuration, "hidden_size": "wide"}))
    message = refused(command, small, "--text", text_files[0])
    assert "config.json" in message and "hidden_size" in message


def test_many_tokens_are_sketched_between_bounds(command, tmp_path):
    torch.manual_seed(2)
    tokens, file = 33000, tmp_path / "features.safetensors"
    hidden, weight = torch.randn(tokens, 4) * 3, torch.randn(50, 4)
    save_file({"hidden": hidden, "weight": weight, "targets": torch.randint(0, 50, (tokens,))}, file)
    out = tmp_path / "out.json"
    printed = command("measure", file, "--sample", 40000, "--sketch-memory", 2 * 50 * 4 * 20 / 2**30, "--only",
                      "gradient_spectrum", "--json", out).stdout
    [got] = json.loads(out.read_text())["models"]
    spectrum = got["gradient_spectrum"]
    assert spectrum["method"] == "randomized" and spectrum["sketch_columns"] == 20 and spectrum["tokens"] == tokens
    gradient = torch.softmax((hidden @ weight.T).double(), 1)
    gradient[torch.arange(tokens), load_file(file)["targets"]] -= 1
    energies = torch.linalg.eigvalsh(gradient.T @ gradient).flip(0)
    share = (energies.cumsum(0) / energies.sum()).numpy()
    low, high = spectrum["bounds"]["best_retained_energy"]
    assert low - 1e-5 < share[3] < high + 1e-5 and high - low <= spectrum["unresolved_energy"] + 1e-9
    low, high = spectrum["bounds"]["components_for_energy"]["0.9"]
    assert low <= int((share < 0.9).sum()) + 1 <= high
    assert "randomized" in printed and " to " in printed


def test_measuring_costs_one_copy_of_the_weights_at_most(command, checkpoint, tmp_path):
    """In float32, whatever they are stored as, and nothing of them twice."""
    np.arange(40).astype("<u2").tofile(tmp_path / "ids.bin")
    arguments = ("--tokens", tmp_path / "ids.bin", "--only", "quality", "gradient_retention")
    base = command.peak("measure", checkpoint, *arguments)
    torch.manual_seed(4)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=16384, hidden_size=512, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=8))
    buffers = 80e6  # of libraries and of a batch, whatever the model's size
    for name, dtype in (("single", torch.float32), ("half", torch.bfloat16)):
        model.to(dtype).save_pretrained(tmp_path / name)
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        extra = command.peak("measure", tmp_path / name, *arguments) - base
        assert extra < weights + buffers, (name, extra / weights)


def bytes_read(pid):
    """By its own reading; what is mapped, as libraries are, does not count."""
    return int(pathlib.Path(f"/proc/{pid}/io").read_text().split("rchar: ")[1].split()[0])


def test_features_stay_in_their_file(command, tmp_path):
    """Their memory does not grow with the tokens, and a file that is cut short meanwhile is one line."""
    tokens, width = 400000, 128
    for name, count in (("few", 4096), ("many", tokens)):
        save_file({"hidden": torch.ones(count, width), "weight": torch.eye(4, width), "targets": torch.zeros(count, dtype=torch.int64)},
                  tmp_path / f"{name}.safetensors")
    few, many = (command.peak("measure", tmp_path / f"{name}.safetensors", "--only", "quality") for name in ("few", "many"))
    assert many - few < 0.2 * 4 * tokens * width, (few, many)
    process = command.begin("measure", tmp_path / "many.safetensors", "--only", "quality")
    while bytes_read(process.pid) < 16 * 2**20:
        assert process.poll() is None, process.communicate()
    os.truncate(tmp_path / "many.safetensors", 10000)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1 and "many.safetensors must keep the " in said, said


def test_the_page_has_everything_in_itself(command, checkpoint, text_files, tmp_path):
    page = tmp_path / "page.html"
    hostile = tmp_path / "</script><b>"
    hostile.mkdir(parents=True)
    for file in checkpoint.iterdir():
        (hostile / file.name).write_bytes(file.read_bytes())
    command("measure", checkpoint, hostile, "--text", *text_files, "--html", page)
    html = page.read_text()
    shell = html[:html.index("<script>")] if "<script>" in html else html
    assert "src=" not in shell and "href=" not in shell and "</script><b>" not in html
    for words in ("destroyed", "What may, and may not, be concluded", "Formulae", "null"):
        assert words in shell
    data = json.loads(shell[shell.index('id="lmhead-data">') + len('id="lmhead-data">'):shell.rindex("</script>")])
    drawn = {panel["id"]: len(panel["lines"]) for panel in data["panels"]}
    assert drawn == {"quantiles": 2, "by-frequency": 2, "by-position": 2, "by-probability": 2, "cumulative": 4,
                     "head-spectrum": 2, "update-direction": 6}


@pytest.mark.parametrize("name, low, high", [("TinyStories-656K-bf16", 0.947, 0.952), ("stories260K-hf", 0.762, 0.810)])
def test_published_share_outside_the_head(command, shared_data, tmp_path, name, low, high):
    """The published figures are means over the tokens of each reference text, cut at 128 ids."""
    folder = shared_data / "models" / name
    reference = json.loads((shared_data / "reference" / "TinyStories-656K.float64.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": case["text"]}) + "\n" for case in reference["cases"]))
    for at, case in enumerate(reference["cases"]):
        ids = tokenizer.encode(case["text"]).ids[:128]
        expected = expected_figures(*features_of(folder, [ids], 512))
        assert low - 5e-4 < expected["fractions"].mean() < high + 5e-4
        np.array(ids, "<u2").tofile(tmp_path / f"{at}.bin")
        [got] = measured(command, tmp_path, folder, "--tokens", tmp_path / f"{at}.bin", "--only", "quality",
                         "gradient_retention", "token_breakdown")
        check(got, expected, 1e-5)
        # The median is exact to the width of the histogram's bins and the gap to the next token.
        ranked = np.sort(1 - expected["fractions"])
        middle = len(ranked) // 2
        assert ranked[middle - 1] - 1e-3 < got["token_breakdown"]["quantiles"]["0.5"] < ranked[middle + 1] + 1e-3


def test_a_copy_in_bfloat16_gives_the_same_figures(command, shared_data, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(json.loads((shared_data / "reference" / "TinyStories-656K.float64.json").read_text())["cases"][1]["text"])
    folders = [shared_data / "models" / name for name in ("TinyStories-656K", "TinyStories-656K-bf16")]
    whole, copy = measured(command, tmp_path, *folders, "--text", text)
    whole.pop("model"), copy.pop("model")
    assert whole == copy
    assert 0.947 < 1 - whole["gradient_retention"]["retained_energy"] < 0.952
