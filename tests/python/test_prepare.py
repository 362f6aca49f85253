"""lmhead prepare: every form of input, exact token files, stable splits, and refusals that leave nothing behind."""

import gzip
import hashlib
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy
import pytest
import tokenizers

from lmhead import __main__ as verbs
from lmhead import prepare, prepare_dataset, prepare_text

PYTHON = Path(prepare.__file__).resolve().parents[1]


def texts(count, start=0):
    """Different documents of some words each, with characters of one to four bytes."""
    return [f"Document {index}: the größe of {'cat' * (index % 5)} is \N{SNOWMAN} \N{GRINNING FACE}\nend {index}\n"
            for index in range(start, start + count)]


def write_folder(folder, documents):
    folder.mkdir()
    for index, document in enumerate(documents):
        (folder / f"{index:04}.txt").write_text(document, encoding="utf-8", newline="")
    return folder


def run(capsys, *arguments):
    """The exit code and what was printed."""
    code = prepare.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def refuse(capsys, *arguments, code=2):
    """The one line of a refusal."""
    got, out, err = run(capsys, *arguments)
    assert got == code and out == "", (got, out, err)
    line = err.strip().splitlines()[-1]
    assert line.startswith("[prepare] "), err
    return line


def sidecar_of(folder):
    return json.loads((folder / "dataset.json").read_text())


def documents_of(folder, split):
    """The documents of a split, read back as a set of texts."""
    sidecar = sidecar_of(folder)
    entry = sidecar["splits"][split]
    ids = numpy.fromfile(folder / entry["file"], sidecar["token_type"]).tolist()
    assert len(ids) == entry["tokens"] and max(ids) < sidecar["vocab_size"]
    assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    documents, present = [], []
    for token in ids:
        if token == sidecar["end_of_document"]:
            documents.append(present)
            present = []
        else:
            present.append(token)
    assert not present and len(documents) == entry["documents"]
    if sidecar["tokenizer"] is None:
        decoded = [bytes(document).decode() for document in documents]
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / sidecar["tokenizer"]))
        decoded = [tokenizer.decode(document, skip_special_tokens=False) for document in documents]
    assert sum(len(document.encode()) for document in decoded) == entry["bytes"]
    return decoded


def all_documents(folder):
    return documents_of(folder, "train") + documents_of(folder, "validation")


def left_over(folder):
    """What a run left beside its output: temporary folders have hidden names."""
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


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
    held_out = [document for document in documents if prepare_dataset.is_validation(document.encode(), 0.3, 0)]
    assert 5 < len(held_out) < 35
    marked = [document.replace("the größe", "qqzzqqzz" * 20) if document in held_out else document
              for document in documents]
    # The marks move some documents to the other split; keep those that stay.
    kept = [document for document in marked
            if ("qqzz" in document) == prepare_dataset.is_validation(document.encode(), 0.3, 0)]
    assert sum("qqzz" in document for document in kept) > 0
    assert run(capsys, tmp_path / "out", write_folder(tmp_path / "in", kept), "--vocab-size", "400",
               "--validation-fraction", "0.3")[0] == 0
    assert "qqzz" not in (tmp_path / "out" / "tokenizer.json").read_text()


def test_a_small_text_gives_a_small_vocabulary_and_says_so(tmp_path, capsys):
    _, _, err = run(capsys, tmp_path / "out", write_folder(tmp_path / "in", texts(40)), "--vocab-size", "5000",
                    "--validation-fraction", "0.3")
    size = sidecar_of(tmp_path / "out")["vocab_size"]
    assert 257 < size < 5000 and f"too small for 5000 tokens: the vocabulary has {size}" in err


def pack(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize("form", ["folder", "folder.gz", "jsonl", "jsonl.gz", "jsonl.xz", "tar", "tar.gz", "tgz", "tar.xz",
                                  "tar of packed", "nested folder", "several files"])
def test_every_form_of_input_gives_the_same_documents(tmp_path, capsys, form):
    documents = texts(40)
    contents = [document.encode() for document in documents]
    jsonl = "".join(json.dumps({"id": 1, "text": document}) + "\n" for document in documents).encode() + b"\n  \n"
    given = [tmp_path / f"in.{form}"]
    if form.startswith("folder") or form == "nested folder":
        given[0].mkdir()
        for index, content in enumerate(contents):
            folder = given[0] / (f"{index % 3}/deep" if form == "nested folder" else "")
            folder.mkdir(parents=True, exist_ok=True)
            packed = form == "folder.gz"
            (folder / f"{index}.txt{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
        (given[0] / "picture.png").write_bytes(b"\x89PNG")
        (given[0] / ".hidden.txt").write_bytes(b"not read")
    elif form.startswith("jsonl"):
        packed = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress}[form](jsonl)
        given[0].write_bytes(packed)
    elif form == "tar of packed":
        given = [tmp_path / "in.tar"]
        pack(given[0], {"a/part.jsonl.xz": lzma.compress(jsonl[:jsonl.index(b"\n")]),
                        **{f"{index}.txt.gz": gzip.compress(content) for index, content in enumerate(contents[1:])}})
    elif form == "several files":
        given = []
        for index, content in enumerate(contents):
            given.append(tmp_path / f"{index}.any")
            given[-1].write_bytes(content)
    else:
        plain = pack(tmp_path / "plain", {"x/y.log": b"no", **{f"x/{i}.txt": c for i, c in enumerate(contents)}})
        squeeze = {"tar": bytes, "tar.gz": gzip.compress, "tgz": gzip.compress, "tar.xz": lzma.compress}[form]
        given[0].write_bytes(squeeze(plain))
    code, _, err = run(capsys, tmp_path / "out", *given, "--bytes", "--validation-fraction", "0.3")
    assert code == 0, err
    assert sorted(all_documents(tmp_path / "out")) == sorted(documents)


def test_suffixes_and_text_field_choose_what_is_read(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(5))
    (folder / "a.JSONL").write_text("".join(json.dumps({"story": text}) + "\n" for text in texts(30, 100)))
    assert run(capsys, tmp_path / "out", folder, "--suffix", ".jsonl", "--text-field", "story", "--bytes",
               "--validation-fraction", "0.3")[0] == 0
    assert sorted(all_documents(tmp_path / "out")) == sorted(texts(30, 100))


def test_a_lone_file_is_cut_at_line_ends_and_nothing_is_lost(tmp_path, capsys):
    text = "".join(f"line {index} größe\n" for index in range(9000))
    (tmp_path / "one.txt").write_text(text)
    code, _, err = run(capsys, tmp_path / "out", tmp_path / "one.txt", "--bytes")
    assert code == 0 and "cut at line ends into documents of at most 4096 bytes" in err
    pieces = all_documents(tmp_path / "out")
    assert sorted("".join(pieces).splitlines()) == sorted(text.splitlines())
    assert all(piece.endswith("\n") and len(piece.encode()) <= 4096 for piece in pieces)


@pytest.mark.parametrize("limit", [16, 17, 18, 19, 100, 10**6])
def test_cutting_never_splits_a_character_and_reads_no_more_than_it_yields(limit):
    class Counting(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7))  # compressed streams return less than they are asked for

    text = ("\N{GRINNING FACE}" * 40 + "\n" + "ab\n\n" * 30 + "größe" * 50).encode()
    stream = Counting(text)
    pieces, taken = [], 0
    for piece in prepare_text.cut(stream, limit):
        pieces.append(piece)
        taken += len(piece)
        assert stream.tell() <= taken + limit + 1
        assert 0 < len(piece) <= limit
        piece.decode()
    assert b"".join(pieces) == text
    assert list(prepare_text.cut(io.BytesIO(b""), limit)) == []


def test_cutting_survives_bytes_that_are_no_characters():
    text = b"\x80" * 100
    assert b"".join(prepare_text.cut(io.BytesIO(text), 16)) == text


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


def test_undecodable_bytes_stay_in_bytes_and_become_replacement_characters_in_bpe(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    (folder / "latin.txt").write_bytes(b"caf\xe9 is latin")
    run(capsys, tmp_path / "bytes", folder, "--bytes", "--validation-fraction", "0.3")
    stored = b"".join(numpy.fromfile(tmp_path / "bytes" / f"{split}.bin", "<u2").clip(0, 255).astype("u1").tobytes()
                      for split in ("train", "validation"))
    assert b"caf\xe9 is latin" in stored
    run(capsys, tmp_path / "bpe", folder, "--vocab-size", "300", "--validation-fraction", "0.3")
    assert "caf\N{REPLACEMENT CHARACTER} is latin" in all_documents(tmp_path / "bpe")


def test_a_second_call_does_nothing_and_a_changed_input_or_result_is_made_again(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    stamp = (tmp_path / "out" / "train.bin").stat().st_mtime_ns
    code, out, err = run(capsys, *arguments)
    assert code == 0 and "nothing to do" in out and err == ""
    assert (tmp_path / "out" / "train.bin").stat().st_mtime_ns == stamp
    before = (tmp_path / "out" / "train.bin").read_bytes()
    (tmp_path / "out" / "train.bin").write_bytes(before[:-2] + b"\0\0")
    assert "wrote" in run(capsys, *arguments)[1]
    assert (tmp_path / "out" / "train.bin").read_bytes() == before
    (folder / "new.txt").write_text("new\n")
    assert "wrote" in run(capsys, *arguments)[1]
    assert "new\n" in all_documents(tmp_path / "out")
    assert left_over(tmp_path) == []


def test_another_request_needs_replace_and_foreign_files_are_left_alone(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    assert "or --replace be given" in (line := refuse(capsys, *arguments, "--seed", "3")) and "another seed" in line
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
    assert run(capsys, *arguments, "--seed", "3", "--replace")[0] == 0
    assert sidecar_of(tmp_path / "out")["source"]["seed"] == 3
    (tmp_path / "out" / "notes.md").write_text("mine")
    assert "with 'notes.md'" in refuse(capsys, *arguments, "--replace")
    assert "OUT must be absent, empty or a dataset" in refuse(capsys, folder, folder, "--bytes", "--replace")
    assert "OUT must be a folder" in refuse(capsys, folder / "0000.txt", folder, "--bytes")
    assert (tmp_path / "out" / "notes.md").read_text() == "mine" and len(os.listdir(folder)) == 40


@pytest.mark.parametrize("sidecar", ["{", "[]", '{"format": "lmhead-dataset"}',
                                     '{"format": "lmhead-dataset", "source": [], "splits": 3}'])
def test_a_broken_sidecar_is_no_reason_to_crash(tmp_path, capsys, sidecar):
    folder = write_folder(tmp_path / "in", texts(40))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text(sidecar)
    refuse(capsys, tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3")
    assert (tmp_path / "out" / "dataset.json").read_text() == sidecar


def test_wrong_requests_say_what_must_hold(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(20))
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for arguments, part in [
        ([], "OUT"),
        ([out, tmp_path / "absent"], "an input must be a readable file or folder, got "),
        ([out, "a\0b"], "an input must be a readable file or folder"),
        ([out, "/dev/null"], "an input must be a file or a folder"),
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


@pytest.mark.parametrize("name, content, part", [
    ("bad.jsonl", b'{"text": "a"}\n{"text": ', "bad.jsonl:2 must be a line of JSON"),
    ("bad.jsonl", b'{"txt": "a"}\n', "bad.jsonl:1 must be an object with the text 'text'"),
    ("bad.jsonl", b'["text"]\n', "bad.jsonl:1 must be an object"),
    ("bad.jsonl", b"[" * 100000, "bad.jsonl:1 must be a line of JSON"),
    ("bad.jsonl", b'{"text": "\xff"}', "bad.jsonl:1 must be a line of JSON"),
    ("bad.txt.gz", b"no gzip", "bad.txt.gz must be readable"),
    ("bad.txt.gz", gzip.compress(os.urandom(5000))[:-900], "bad.txt.gz must be readable"),
    ("bad.txt.gz", gzip.compress(b"a" * 999)[:12] + b"\xff" * 20, "bad.txt.gz must be readable"),
    ("bad.txt.xz", lzma.compress(os.urandom(5000))[:-900], "bad.txt.xz must be readable"),
    ("bad.tar", b"no archive" * 100, "bad.tar must be readable"),
    ("bad.tar.xz", lzma.compress(b"no archive" * 100), "bad.tar.xz must be readable"),
])
@pytest.mark.parametrize("kind", [["--bytes"], ["--vocab-size", "300"]])
def test_broken_inputs_are_named_and_nothing_is_left(tmp_path, capsys, name, content, part, kind):
    (tmp_path / name).write_bytes(content)
    assert part in refuse(capsys, tmp_path / "out", write_folder(tmp_path / "in", texts(20)), tmp_path / name, *kind)
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path, capsys):
    lines = [json.dumps({"text": text}) for text in texts(30)] + ['{"text": "half \\ud800 pair"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert run(capsys, tmp_path / "out", tmp_path / "a.jsonl", "--bytes", "--validation-fraction", "0.3")[0] == 0
    assert "half ? pair" in all_documents(tmp_path / "out")


def test_a_failure_to_write_is_one_line_and_leaves_the_old_dataset(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "in", texts(40))
    arguments = [tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3"]
    run(capsys, *arguments)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_dataset.os, "fsync", full)
    assert "No space left on device" in refuse(capsys, *arguments, "--seed", "5", "--replace", code=1)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")} == before
    assert left_over(tmp_path) == []


def test_an_interruption_between_the_two_renames_puts_the_old_dataset_back(tmp_path, monkeypatch):
    fresh, out, scratch = (tmp_path / name for name in ("fresh", "out", "scratch"))
    for folder in (fresh, out, scratch):
        folder.mkdir()
        (folder / folder.name).touch()
    rename = Path.rename

    def interrupted(path, target):
        if path == fresh:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset.replace_folder(fresh, out, scratch)
    assert os.listdir(out) == ["out"]
    monkeypatch.undo()
    prepare_dataset.replace_folder(fresh, out, scratch)
    assert os.listdir(out) == ["fresh"] and os.listdir(scratch / "old") == ["out"]


def test_a_stop_by_signal_leaves_nothing(tmp_path):
    folder = write_folder(tmp_path / "in", texts(20))
    script = ("import sys, time; from lmhead import prepare, prepare_dataset as d\n"
              "def slow(self, document):\n    print('writing', flush=True); time.sleep(60)\n"
              "d.SplitWriter.add = slow\nsys.exit(prepare.main(sys.argv[1:]))")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out"), str(folder), "--bytes"],
                               env={**os.environ, "PYTHONPATH": str(PYTHON)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "stopped; nothing was written" in err
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []


def test_the_standard_library_is_a_corpus_of_whole_files():
    files = prepare_text.standard_library_files()
    names = [file.name for file in files]
    assert names == sorted(names) and "python-stdlib/argparse.py" in names
    assert not [name for name in names if "/test/" in name or "/tests/" in name or "site-packages" in name]
    assert 5e6 < sum(file.size for file in files) < 5e7
    corpus = prepare_text.Corpus([prepare_text.PYTHON_STDLIB])
    argparse = next(file for file in files if file.name == "python-stdlib/argparse.py")
    assert any(document == argparse.path.read_bytes() for document in corpus)


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
    assert verbs.main(["prepare", str(tmp_path / "out"), str(folder), "--bytes", "--validation-fraction", "0.3"]) == 0
    assert verbs.main(["--help"]) == 0
    assert "prepare" in capsys.readouterr().out
    assert verbs.main(["prepair"]) == 2
    assert verbs.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("[lmhead] the verb must be one of prepare, report") and "got 'prepair'" in said
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "lmhead", "prepare", str(tmp_path / "out"), str(folder), "--bytes",
                           "--validation-fraction", "0.3"], env={**os.environ, "PYTHONPATH": str(PYTHON)},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "nothing to do" in done.stdout and time.monotonic() - started < 30
