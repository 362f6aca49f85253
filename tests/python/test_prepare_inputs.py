"""lmhead prepare: every form of input gives the same documents, and a broken one is named."""

import gzip
import io
import json
import lzma
import os
import tarfile

import numpy
import pytest
from lmhead.prepare import corpus, files, splitting
from prepare_fixtures import all_documents, left_over, refuse, run, sidecar_of, texts, write_folder


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
    for piece in splitting.cut(stream, limit):
        pieces.append(piece)
        taken += len(piece)
        assert stream.tell() <= taken + limit + 1
        assert 0 < len(piece) <= limit
        piece.decode()
    assert b"".join(pieces) == text
    assert list(splitting.cut(io.BytesIO(b""), limit)) == []


def test_cutting_survives_bytes_that_are_no_characters():
    text = b"\x80" * 100
    assert b"".join(splitting.cut(io.BytesIO(text), 16)) == text


def test_undecodable_bytes_stay_in_bytes_and_become_replacement_characters_in_bpe(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", texts(40))
    (folder / "latin.txt").write_bytes(b"caf\xe9 is latin" + b"." * 100)
    run(capsys, tmp_path / "bytes", folder, "--bytes", "--validation-fraction", "0.3")
    stored = b"".join(numpy.fromfile(tmp_path / "bytes" / f"{split}.bin", "<u2").clip(0, 255).astype("u1").tobytes()
                      for split in ("train", "validation"))
    assert b"caf\xe9 is latin" in stored
    run(capsys, tmp_path / "bpe", folder, "--vocab-size", "300", "--validation-fraction", "0.3")
    assert "caf\N{REPLACEMENT CHARACTER} is latin" + "." * 100 in all_documents(tmp_path / "bpe")


@pytest.mark.parametrize("name, content, part", [
    ("bad.jsonl", b'{"text": "a"}\n{"text": ', "bad.jsonl:2 must be a line of JSON"),
    ("bad.jsonl", b'{"txt": "a"}\n', "bad.jsonl:1 must be an object with the text 'text' (--text-field), got"),
    ("bad.jsonl", b'["text"]\n', "bad.jsonl:1 must be an object"),
    ("bad.jsonl", b"[" * 100000, "bad.jsonl:1 must be a line of JSON"),
    ("bad.jsonl", b'{"text": "%b\xff"}' % (b"a" * 200), "bad.jsonl:1 must be a line of JSON"),
    ("bad.txt.gz", b"no gzip", "bad.txt.gz must be readable"),
    ("bad.txt.gz", gzip.compress(os.urandom(5000))[:-900], "bad.txt.gz must be readable"),
    ("bad.txt.gz", gzip.compress(b"a" * 999, mtime=0)[:12] + b"\xff" * 20, "bad.txt.gz must be readable"),
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


def test_the_standard_library_is_a_corpus_of_whole_files():
    sources = files.standard_library_files()
    names = [file.name for file in sources]
    assert names == sorted(names) and "python-stdlib/argparse.py" in names
    assert not [name for name in names if "/test/" in name or "/tests/" in name or "site-packages" in name]
    assert 5e6 < sum(file.size for file in sources) < 5e7
    texts = corpus.Corpus([files.PYTHON_STDLIB])
    assert b"".join(piece.text for piece in texts) == b"".join(file.path.read_bytes() for file in sources)
    assert not texts.passed


def write_known_inputs(folder):
    """One input of every kind that was read before any other was; the same bytes for ever."""
    documents = [f"Document {index}: the größe of {'cat' * (index % 5)} is \N{SNOWMAN} \N{GRINNING FACE}\r\nend {index}\n\n"
                 for index in range(60)]
    (folder / "folder" / "deep").mkdir(parents=True)
    for index, text in enumerate(documents):
        where = folder / "folder" / ("deep" if index % 3 else ".")
        (where / f"{index:02}.{'txt' if index % 2 else 'md'}").write_bytes(text.encode())
    (folder / "folder" / "bad.txt").write_bytes(documents[0].encode() * 20 + b"caf\xe9\n")
    (folder / "folder" / "packed.txt.gz").write_bytes(gzip.compress(documents[1].encode() * 3))
    lines = "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=index % 2) + "\n" for index, text in enumerate(documents))
    lines = (lines + '\n{"text": "half \\ud800 pair", "n": 1}\n{"text": ""}\n').encode()
    (folder / "lines.jsonl").write_bytes(lines)
    (folder / "lines.jsonl.xz").write_bytes(lzma.compress(lines))
    (folder / "lone.txt").write_bytes(("".join(documents) * 8).encode())
    (folder / "lone.text.gz").write_bytes(gzip.compress(("".join(documents) * 8).encode()))
    (folder / "code.py").write_bytes(("".join(documents) * 3).encode())
    members = {f"x/{index}.txt": text.encode() for index, text in enumerate(documents)} | {"x/l.jsonl": lines}
    (folder / "a.tar.gz").write_bytes(gzip.compress(pack(folder / "a.tar", members)))


@pytest.mark.parametrize("inputs, content_hash", [
    (["folder"], "a04e87aa1021b884c62e4f11d952821558ecbed5ad2d346e2d708eb0a9e23361"),
    (["lines.jsonl"], "1925adae1bfa19dab30da5752f92cf98dd3c8e8fc146945ba25152239ca86965"),
    (["lines.jsonl.xz"], "1925adae1bfa19dab30da5752f92cf98dd3c8e8fc146945ba25152239ca86965"),
    (["lone.txt"], "a48955a147340d35aece1c49a045848b62b2c2de2002115a5250f28720de3ca9"),
    (["lone.text.gz"], "a48955a147340d35aece1c49a045848b62b2c2de2002115a5250f28720de3ca9"),
    (["lone.txt", "code.py", "lines.jsonl"], "9909a085cee7896106217b84ec2ceb427c91a8bfa5a62251f798a26e756a6cef"),
    (["a.tar.gz"], "88215e02af1c02bfe006467f0eecc21979fb5ef16ed16118dc3681ace19f3ea3"),
    (["folder", "--suffix", ".md"], "f2ab38f1bbe38c73497cf0ac220c8bff322252d40c61c816645f6eacafa204bf"),
])
def test_the_same_input_gives_the_same_dataset_for_ever(tmp_path, capsys, monkeypatch, inputs, content_hash):
    write_known_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "out", *inputs, "--bytes", "--validation-fraction", "0.3")[0] == 0
    sidecar = sidecar_of(tmp_path / "out")
    assert sidecar["content_hash"] == content_hash
    # Another key here, and every dataset that is there would be made anew.
    assert list(sidecar["source"]) == ["inputs", "suffixes", "text_field", "document_bytes", "validation_fraction", "seed",
                                       "tokenizer", "inputs_hash"]
    assert sidecar["source"]["suffixes"] in ([".md"], [".txt", ".md", ".rst", ".jsonl"])
