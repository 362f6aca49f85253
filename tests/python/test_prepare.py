"""lmhead prepare: exact token files, stable splits, any tokenizer, and one line for a wrong request."""

import hashlib
import lzma
import os
import subprocess
import sys
import time

import numpy
import tokenizers
from lmhead.prepare import dataset
from prepare_fixtures import (
    PYTHON,
    all_documents,
    documents_of,
    left_over,
    refuse,
    run,
    sidecar_of,
    texts,
    write_folder,
)

from lmhead import __main__ as verbs


def test_bytes_round_trip_and_sidecar_is_complete(tmp_path, capsys):
    documents = texts(60)
    code, out, _ = run(capsys, tmp_path / "out", write_folder(tmp_path / "in", documents), "--bytes",
                       "--validation-fraction", "0.3")
    assert code == 0 and out.startswith("[prepare] wrote ")
    assert sorted(all_documents(tmp_path / "out")) == sorted(documents)
    sidecar = sidecar_of(tmp_path / "out")
    assert list(sidecar) == ["format", "version", "vocab_size", "token_type", "tokenizer", "tokenizer_hash",
                             "end_of_document", "splits", "content_hash", "source"]
    assert (sidecar["vocab_size"], sidecar["token_type"], sidecar["tokenizer"], sidecar["tokenizer_hash"],
            sidecar["end_of_document"]) == (257, "uint16", None, "bytes", 256)
    hashes = [sidecar["splits"][split]["sha256"] for split in ("train", "validation")]
    assert sidecar["content_hash"] == hashlib.sha256("\n".join(["bytes", *hashes, ""]).encode()).hexdigest()
    assert sorted(os.listdir(tmp_path / "out")) == ["dataset.json", "train.bin", "validation.bin"]
    assert left_over(tmp_path) == []
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "in").stat().st_mode & 0o777


def test_bpe_round_trip_and_the_same_request_gives_the_same_files(tmp_path, capsys):
    documents = texts(80) + ["a literal <|endoftext|> inside", "x"]
    folder = write_folder(tmp_path / "in", documents)
    for name in ("one", "two"):
        assert run(capsys, tmp_path / name, folder, "--vocab-size", "300", "--validation-fraction", "0.2")[0] == 0
    assert sorted(all_documents(tmp_path / "one")) == sorted(documents)
    sidecar = sidecar_of(tmp_path / "one")
    assert sidecar["vocab_size"] == 300 and sidecar["end_of_document"] == 299
    assert sidecar["tokenizer_hash"] == hashlib.sha256((tmp_path / "one" / "tokenizer.json").read_bytes()).hexdigest()
    for name in ("train.bin", "validation.bin", "tokenizer.json", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sum(split["tokens"] for split in sidecar["splits"].values()) < 0.8 * sum(
        split["bytes"] for split in sidecar["splits"].values())


def test_the_tokenizer_learns_from_training_documents_only(tmp_path, capsys):
    documents = texts(60)
    held_out = [document for document in documents if dataset.is_validation(document.encode(), 0.3, 0)]
    assert 5 < len(held_out) < 35
    marked = [document.replace("the größe", "qqzzqqzz" * 20) if document in held_out else document
              for document in documents]
    # The marks move some documents to the other split; keep those that stay.
    kept = [document for document in marked
            if ("qqzz" in document) == dataset.is_validation(document.encode(), 0.3, 0)]
    assert sum("qqzz" in document for document in kept) > 0
    assert run(capsys, tmp_path / "out", write_folder(tmp_path / "in", kept), "--vocab-size", "400",
               "--validation-fraction", "0.3")[0] == 0
    assert "qqzz" not in (tmp_path / "out" / "tokenizer.json").read_text()


def test_a_small_text_gives_a_small_vocabulary_and_says_so(tmp_path, capsys):
    _, _, err = run(capsys, tmp_path / "out", write_folder(tmp_path / "in", texts(40)), "--vocab-size", "5000",
                    "--validation-fraction", "0.3")
    size = sidecar_of(tmp_path / "out")["vocab_size"]
    assert 257 < size < 5000 and f"too small for 5000 tokens: the vocabulary has {size}" in err


def test_adding_documents_moves_no_other_and_the_share_is_as_asked(tmp_path, capsys):
    few, many = texts(200), texts(600)
    run(capsys, tmp_path / "few", write_folder(tmp_path / "a", few), "--bytes", "--validation-fraction", "0.25")
    run(capsys, tmp_path / "many", write_folder(tmp_path / "b", many[::-1]), "--bytes", "--validation-fraction", "0.25")
    run(capsys, tmp_path / "other", tmp_path / "b", "--bytes", "--validation-fraction", "0.25", "--seed", "1")
    validation = {name: set(documents_of(tmp_path / name, "validation")) for name in ("few", "many", "other")}
    assert validation["few"] == validation["many"] & set(few)
    assert abs(len(validation["many"]) - 150) < 5 * (600 * 0.25 * 0.75) ** 0.5
    assert validation["other"] != validation["many"]


def test_equal_documents_are_never_in_both_splits(tmp_path, capsys):
    run(capsys, tmp_path / "out", write_folder(tmp_path / "in", texts(50) * 3), "--bytes", "--validation-fraction", "0.3")
    assert not set(documents_of(tmp_path / "out", "train")) & set(documents_of(tmp_path / "out", "validation"))


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path, capsys):
    words = {f"w{index}": index for index in range(70000)}
    model = tokenizers.models.WordLevel({**words, "<unk>": 70000, "<|endoftext|>": 70001}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "t.json"))
    folder = write_folder(tmp_path / "in", [f"w{index} w{69999 - index} w5" for index in range(40)])
    assert run(capsys, tmp_path / "out", folder, "--tokenizer", tmp_path / "t.json", "--validation-fraction", "0.3")[0] == 0
    sidecar = sidecar_of(tmp_path / "out")
    assert sidecar["token_type"] == "uint32" and sidecar["vocab_size"] == 70002 and sidecar["end_of_document"] == 70001
    ids = numpy.fromfile(tmp_path / "out" / "train.bin", "<u4")
    assert len(ids) == 4 * sidecar["splits"]["train"]["documents"] and ids.max() == 70001 and ids[1] > 65535
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "t.json").read_bytes()


def test_the_end_of_a_document_is_looked_for_or_named_or_absent(tmp_path, capsys):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "stop": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "t.json.xz").write_bytes(lzma.compress(tokenizer.to_str().encode()))
    folder = write_folder(tmp_path / "in", ["a b " * index for index in range(1, 40)])
    common = [folder, "--tokenizer", tmp_path / "t.json.xz", "--validation-fraction", "0.3"]
    _, _, err = run(capsys, tmp_path / "none", *common)
    assert sidecar_of(tmp_path / "none")["end_of_document"] is None and "none of the usual ends" in err
    assert run(capsys, tmp_path / "named", *common, "--end-of-document", "stop")[0] == 0
    assert sidecar_of(tmp_path / "named")["end_of_document"] == 2
    assert "must be a token of the tokenizer, got 'halt'" in refuse(capsys, tmp_path / "x", *common, "--end-of-document",
                                                                    "halt")


def test_wrong_requests_say_what_must_hold(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(20))
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for arguments, part in [
        ([], "OUT"),
        ([out, tmp_path / "absent"], "an input must be a readable file or folder, got "),
        ([out, "a\0b"], "an input must be a readable file or folder"),
        ([out, "/dev/null"], "an input must be a file, got a device '/dev/null'"),
        ([out, tmp_path / "empty"], "a folder must hold files with a suffix of .txt"),
        ([out, folder, "--suffix", ".cc"], "a suffix of .cc (--suffix), got none"),
        ([out, folder, "--suffix", ""], "--suffix must not be empty"),
        ([out, folder, "--vocab-size", "256"], "--vocab-size must be from 257"),
        ([out, folder, "--vocab-size", "many"], "invalid int value"),
        ([out, folder, "--validation-fraction", "0"], "--validation-fraction must lie between 0 and 1, got 0.0"),
        ([out, folder, "--validation-fraction", "nan"], "--validation-fraction must lie between 0 and 1"),
        ([out, folder, "--seed", "-1"], "--seed must be from 0"),
        ([out, folder, "--document-bytes", "1"], "--document-bytes must be at least 16, got 1"),
        ([out, folder, "--corpus", "python-stdlib"], "--corpus must stand alone"),
        ([out, folder, "--bytes", "--vocab-size", "300"], "not allowed with"),
        ([out, folder, "--end-of-document", "x"], "--end-of-document must come with --tokenizer"),
        ([out, folder, "--tokenizer", tmp_path / "absent"], "--tokenizer must be readable"),
        ([out, folder, "--tokenizer", folder / "0000.txt"], "--tokenizer must be a tokenizer.json"),
        ([out, folder, "--bytes", "--validation-fraction", "1e-9"], "got none for validation of 20 in all"),
    ]:
        assert part in refuse(capsys, *arguments)
    assert not out.exists() and left_over(tmp_path) == []


def test_published_tokenizers_read_back_what_they_wrote(tmp_path, capsys, shared_data):
    documents = texts(60)
    folder = write_folder(tmp_path / "in", documents)
    for name, vocab_size, end in [("gpt2.tokenizer.json", 50257, 50256), ("qwen3.tokenizer.json.xz", 151669, 151643)]:
        out = tmp_path / name
        assert run(capsys, out, folder, "--tokenizer", shared_data / "tokenizers" / name, "--validation-fraction",
                   "0.3")[0] == 0
        sidecar = sidecar_of(out)
        assert (sidecar["vocab_size"], sidecar["end_of_document"]) == (vocab_size, end)
        assert sidecar["token_type"] == ("uint16" if vocab_size <= 65536 else "uint32")
        assert sorted(all_documents(out)) == sorted(documents)


def test_the_package_runs_as_a_program(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    def call(*arguments):
        return verbs.load([str(argument) for argument in arguments])()

    assert call("prepare", tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3") == 0
    assert call("--help") == 0
    assert "prepare" in capsys.readouterr().out
    assert call("prepair") == 2
    assert call() == 2
    said = capsys.readouterr().err
    assert said.startswith("[lmhead] the verb must be one of prepare, report") and "got 'prepair'" in said
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "lmhead", "prepare", str(tmp_path / "out"), str(folder), "--bytes",
                           "--validation-fraction", "0.3"], env={**os.environ, "PYTHONPATH": str(PYTHON)},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "nothing to do" in done.stdout and time.monotonic() - started < 30
