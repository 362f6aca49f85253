"""A .gguf file as a MODEL: the same figures as transformers' own reader gives, and one line for whatever is wrong."""

import json
import os
import pathlib
import shutil
import types

import pytest
from gguf_fixtures import CASES, VOCAB, gguf, make_model, torch, transformers, write
from lmhead.command import RequestError
from lmhead.gguf.convert import convert
from lmhead.gguf.vocabulary import build
from measure_fixtures import TEXTS, command, make_tokenizer, text_files
from test_families import built_tests, check, write_parity

# Architectures whose GGUF files transformers reads itself, at any size; loading them so takes seconds.
READ_BY_TRANSFORMERS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3") if os.environ.get("LMHEAD_SLOW_TESTS") else ("llama", "gemma3")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def with_parity(path, model):
    folder = pathlib.Path(convert(path))
    write_parity(folder, model, torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(1)))
    return folder


def test_every_architecture_agrees_with_transformers(tmp_path):
    built_tests()
    folders = []
    for name in CASES:
        model = make_model(name)
        folders.append(with_parity(write(tmp_path / f"{name}.gguf", name, model), model))
        if name in READ_BY_TRANSFORMERS:
            path = write(tmp_path / f"{name}.Q8_0.gguf", name, model, "Q8_0")
            theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, attn_implementation="eager")
            for layer in theirs.model.layers:  # of Gemma the file does not say it; llama.cpp takes the width of a head
                layer.self_attn.scaling = model.model.layers[0].self_attn.scaling
            folders.append(with_parity(path, theirs.eval()))
    check(folders)


def test_llama_3_frequencies_are_told_from_their_divisors(tmp_path):
    torch.manual_seed(0)
    scaling = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192)
    config = transformers.LlamaConfig(vocab_size=VOCAB, hidden_size=128, intermediate_size=64, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=2, rope_parameters=scaling)
    model = transformers.LlamaForCausalLM(config).eval()
    plain = 1 / 500000.0 ** (torch.arange(0, 64, 2) / 64)
    divisors = (plain / model.model.rotary_emb.inv_freq).numpy().astype("float32")
    path = write(tmp_path / "a.gguf", "llama", model, change=lambda all: all | {"rope_freqs.weight": divisors})
    found = json.loads((pathlib.Path(convert(path)) / "config.json").read_text())["rope_scaling"]
    assert found["factor"] == pytest.approx(8, rel=1e-5) and found["rope_type"] == "llama3"
    assert found["original_max_position_embeddings"] == 8192
    other = write(tmp_path / "b.gguf", "llama", model, change=lambda all: all | {"rope_freqs.weight": divisors[::-1].copy()})
    with pytest.raises(RequestError, match="rope_freqs"):
        convert(other)


def byte_level_fields(folder):
    tokenizer = make_tokenizer(folder)
    described = json.loads((folder / "tokenizer.json").read_text())["model"]
    names = sorted(described["vocab"], key=described["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in described["merges"]]
    return tokenizer, {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": names,
                       "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 0,
                       "tokenizer.ggml.token_type": [3 if name == "<s>" else 1 for name in names]}


def test_a_byte_level_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer, fields = byte_level_fields(tmp_path)
    for text in [*TEXTS, "  two  spaces\r\n\tand 1234567 it's", "<s>"]:
        assert build({**fields, "tokenizer.ggml.add_bos_token": True}).encode(text).ids == tokenizer.encode(text).ids
        assert build(fields).encode(text).ids == tokenizer.encode(text, add_special_tokens=False).ids
    for key, value, must in [("pre", "klingon", "must be one of gpt-2"), ("model", "bert", "must be gpt2 or llama"),
                             ("merges", ["nothere x"], "pairs of tokens"), ("token_type", [1], "token_type"), ("tokens", [], "hold tokens")]:
        with pytest.raises(RequestError, match=must):
            build({**fields, f"tokenizer.ggml.{key}": value})


def test_pieces_with_scores_give_the_ids_of_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    source = tmp_path / "text.txt"
    source.write_text("\n".join(TEXTS[1].splitlines() * 20 + [f"number {n} of the quick brown foxes" for n in range(200)]))
    sentencepiece.SentencePieceTrainer.train(input=str(source), model_prefix=str(tmp_path / "m"), model_type="bpe", vocab_size=360,
                                             byte_fallback=True, normalization_rule_name="identity", minloglevel=2,
                                             remove_extra_whitespaces=False)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    count = pieces.get_piece_size()
    kinds = [2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1 for i in range(count)]
    fields = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in range(count)],
              "tokenizer.ggml.scores": [pieces.get_score(i) for i in range(count)], "tokenizer.ggml.token_type": kinds,
              "tokenizer.ggml.bos_token_id": pieces.bos_id(), "tokenizer.ggml.unknown_token_id": pieces.unk_id()}
    built = build(fields)
    for text in [*TEXTS, "the  quick brown\nfoxes 🙂 of number 77", "x"]:
        assert built.encode(text).ids == [pieces.bos_id(), *pieces.encode(text)]
        assert built.decode(pieces.encode(text)) == text


def test_measure_takes_a_file_and_says_its_quantisation(tmp_path, command, text_files, cache):
    model = make_model("llama")
    path = write(tmp_path / "tiny.gguf", "llama", model, "Q8_0")
    ids = tmp_path / "ids.bin"
    ids.write_bytes(torch.randint(VOCAB, (200,)).to(torch.uint16).numpy().tobytes())
    out = tmp_path / "out.json"
    page = tmp_path / "out.html"
    done = command("measure", path, "--tokens", ids, "--json", out, "--html", page, LMHEAD_CACHE=str(cache))
    got = json.loads(out.read_text())["models"][0]
    assert got["quantization"] == "Q8_0" and got["family"] == "llama" and got["model"] == str(path)
    assert "Q8_0" in done.stdout and "weights undone from Q8_0" in page.read_text()
    assert "no tokenizer that is known" in done.stderr
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name).eval()
    tokens = torch.frombuffer(bytearray(ids.read_bytes()), dtype=torch.uint16).long()
    losses = []
    for start in range(0, 199, 64):
        window = tokens[start : start + 65]
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(theirs(window[None, :-1]).logits[0], window[1:], reduction="none"))
    assert got["quality"]["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    assert "self_attn.q_proj" in command("inspect", path, LMHEAD_CACHE=str(cache)).stdout
    assert command("sample", path, "--prompt-ids", "1,2", "--max-new-tokens", 3, "--ids", LMHEAD_CACHE=str(cache)).stdout.count(",") == 2
    assert len(list((cache / "gguf").iterdir())) == 1  # read anew, not made anew
    done = command("measure", path, "--text", text_files[0], expect=2, LMHEAD_CACHE=str(cache))
    assert "must have a tokenizer.json" in done.stderr.splitlines()[-1]


def test_a_scorer_takes_a_file(tmp_path):
    lmhead = pytest.importorskip("lmhead")
    path = write(tmp_path / "tiny.gguf", "qwen2", make_model("qwen2"), "Q8_0")
    scorer = lmhead.Scorer(path)
    assert scorer.description["quantization"] == "Q8_0"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name).eval()
    with torch.no_grad():
        wanted = theirs(torch.tensor([[3, 9, 4]])).logits.log_softmax(-1)[0, 1, 4].item()
    assert scorer.score([([3, 9], [4])])[0].log_probability == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    model = make_model("llama")
    whole = write(tmp_path / "whole.gguf", "llama", model).read_bytes()
    infos = whole.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16

    def attempt(content, must):
        path = tmp_path / "attempt.gguf"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=must) as caught:
            convert(path)
        assert "\n" not in str(caught.value)

    attempt(b"", "an empty one")
    attempt(b"GGML" + whole[4:], "begins with GGUF")
    attempt(whole[:4] + b"\0\0\0\3" + whole[8:], "version")
    attempt(whole[:infos] + (4).to_bytes(4, "little") + whole[infos + 4 :], "quantisation that the package gguf knows, got type 4")
    attempt(whole[:infos] + (24).to_bytes(4, "little") + whole[infos + 4 :], "can be undone, got I8")
    attempt(whole[:-64], "must lie in the file")
    attempt(whole.replace(b"llama", b"lamba", 1), "general.architecture must be one of llama, .*got 'lamba'")
    for claim in (1 << 20, 1 << 40, (1 << 63) - 1):  # counts without the bytes for them
        attempt(whole[:16] + claim.to_bytes(8, "little") + whole[24:], "whole GGUF file")
        attempt(whole[:8] + claim.to_bytes(8, "little") + whole[16:], "whole GGUF file")
    with pytest.raises(RequestError, match="got 'blk.0.strange.weight'"):
        convert(write(tmp_path / "more.gguf", "llama", model, change=lambda all: all | {"blk.0.strange.weight": all["output_norm.weight"]}))
    for key, value, must in [("expert_count", 8, "experts"), ("rope.scaling.type", "yarn", "none or linear"), ("rope.dimension_count", 2, "elements of a head")]:
        more = {} if key == "rope.dimension_count" else {key: value}
        path = write(tmp_path / "more.gguf", "llama", model, **more)
        if not more:
            content = path.read_bytes()
            at = content.index(b"llama.rope.dimension_count") + len("llama.rope.dimension_count") + 4
            path.write_bytes(content[:at] + value.to_bytes(4, "little") + content[at + 4 :])
        with pytest.raises(RequestError, match=must):
            convert(path)


def test_cut_and_damaged_files_end_in_one_line(tmp_path, cache):
    whole = write(tmp_path / "whole.gguf", "llama", make_model("llama")).read_bytes()
    end = whole.index(b"token_embd.weight") + 400
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "damaged.gguf"

    def attempt(content):
        path.write_bytes(content)
        try:
            convert(path)
        except RequestError as error:
            assert "\n" not in str(error)
        else:
            shutil.rmtree(cache)

    for cut in [*range(0, end, 29), len(whole) - 1]:
        attempt(whole[:cut])
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(3):
            content[int(torch.randint(8, end, (), generator=draw))] = int(torch.randint(256, (), generator=draw))
        attempt(bytes(content))


def test_a_full_or_forbidden_cache_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", "llama", make_model("llama"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMHEAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="must be writable"):
        convert(path)
    monkeypatch.setenv("LMHEAD_CACHE", str(tmp_path / "small"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(RequestError, match="MiB free"):
        convert(path)
    assert not list((tmp_path / "small" / "gguf").iterdir())
