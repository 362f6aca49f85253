"""The one reader of text: every format, compression and encoding gives the same documents."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile

import pytest
from lmhead.command import RequestError
from lmhead.prepare import command
from lmhead.prepare.corpus import Corpus
from lmhead.prepare.options import TextOptions
from prepare_fixtures import all_documents, refuse, run, sidecar_of, texts, write_folder

pyarrow = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")
import pyarrow.parquet  # noqa: E402

DOCUMENTS = texts(40)
COMMON = ("--bytes", "--validation-fraction", "0.3")
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress}


def table(documents=DOCUMENTS, field="text"):
    return pyarrow.table({"id": list(range(len(documents))), field: documents})


def parquet(documents=DOCUMENTS, field="text", **options):
    out = io.BytesIO()
    pyarrow.parquet.write_table(table(documents, field), out, row_group_size=7, **options)
    return out.getvalue()


def arrow(make, documents=DOCUMENTS):
    out = io.BytesIO()
    with make(out, table(documents).schema) as writer:
        writer.write_table(table(documents), max_chunksize=7)
    return out.getvalue()


def rows(delimiter, documents=DOCUMENTS, field="text"):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["id", field, "more"])
    writer.writerows([index, text, 'said "so"'] for index, text in enumerate(documents))
    return out.getvalue().encode()


def json_lines(documents=DOCUMENTS, field="text"):
    return "".join(json.dumps({"id": 1, field: text}) + "\n" for text in documents).encode()


def json_list(documents=DOCUMENTS, field="text", **options):
    return json.dumps([{"id": [1, {"a": None}], field: text} for text in documents], **options).encode()


CONTENTS = {
    ".jsonl": json_lines(), ".ndjson": json_lines(), ".json": json_list(), ".list.json": json_list(indent=2),
    ".lines.json": json_lines(), ".spread.json": b"\n".join(json.dumps({"text": text}, indent=1).encode() for text in DOCUMENTS),
    ".csv": rows(","), ".tsv": rows("\t"), ".parquet": parquet(), ".arrow": arrow(pyarrow.ipc.new_file),
    ".stream.arrow": arrow(pyarrow.ipc.new_stream), ".feather": arrow(pyarrow.ipc.new_file),
}  # fmt: skip


def documents_of(*paths, **options):
    """The documents that the reader finds, whole."""
    documents = []
    for piece in Corpus([str(path) for path in paths], TextOptions(**options)):
        if piece.opens:
            documents.append(b"")
        documents[-1] += piece.text
    return [document.decode() for document in documents]


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("packing", ["", *PACK])
def test_every_format_is_read_by_its_suffix_in_any_compression(tmp_path, suffix, packing):
    path = tmp_path / f"texts{suffix}{packing}"
    path.write_bytes(PACK.get(packing, bytes)(CONTENTS[suffix]))
    assert documents_of(path) == DOCUMENTS


@pytest.mark.parametrize("suffix", [".parquet", ".zst", ".gz", ".xz", ".bz2", ".arrow"])
@pytest.mark.parametrize("name", ["texts", "texts.data", "texts.txt", "texts.jsonl"])
def test_what_the_name_does_not_tell_the_content_does(tmp_path, suffix, name):
    content = CONTENTS.get(suffix) or PACK[suffix](CONTENTS[".jsonl"] if name == "texts.jsonl" else "".join(DOCUMENTS).encode())
    (tmp_path / name).write_bytes(content)
    whole = suffix in CONTENTS or name == "texts.jsonl"
    assert documents_of(tmp_path / name) == (DOCUMENTS if whole else ["".join(DOCUMENTS)])


def test_prepare_and_its_second_call_know_a_table(tmp_path, capsys):
    (tmp_path / "a.parquet").write_bytes(parquet(field="story"))
    arguments = (tmp_path / "out", tmp_path / "a.parquet", "--text-field", "story", *COMMON)
    code, _, err = run(capsys, *arguments)
    assert code == 0 and "one text file" not in err
    assert sorted(all_documents(tmp_path / "out")) == sorted(DOCUMENTS)
    assert "nothing to do" in run(capsys, *arguments)[1]


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.bz2", "tgz", "zip", "zip.gz", "tar without a name"])
def test_members_of_archives_are_read_like_the_files_of_a_folder(tmp_path, kind):
    members = {"a/0.txt": DOCUMENTS[0].encode(), "a/1.txt.zst": PACK[".zst"](DOCUMENTS[1].encode()),
               "b.jsonl.bz2": PACK[".bz2"](json_lines(DOCUMENTS[2:4])), "c/d.parquet": parquet(DOCUMENTS[4:]),
               "c/e.txt": b"%PDF-1.7 not this", "f.png": b"\x89PNG"}
    out = io.BytesIO()
    if kind.startswith("zip"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("a") if hasattr(archive, "mkdir") else None
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    suffix = ".gz" if kind == "tgz" else "." + kind.rpartition(".")[2]
    path = tmp_path / ("in" if kind == "tar without a name" else f"in.{kind}")
    path.write_bytes(PACK.get(suffix, bytes)(out.getvalue()))
    corpus = Corpus([str(path)], TextOptions(suffixes=(".txt", ".jsonl", ".parquet")))
    assert [piece.text.decode() for piece in corpus] == DOCUMENTS
    for part in ("passed over 2 files", "1 of another suffix, which --suffix reads", "f.png", "being a PDF document", "e.txt"):
        assert part in str(corpus.passed)
    assert len([piece for piece in corpus]) == 40 and "passed over 2 files" in str(corpus.passed)


def test_an_archive_that_holds_nothing_to_read_says_what_would(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.ndjson", json_lines(DOCUMENTS))
    code, _, err = run(capsys, tmp_path / "out", tmp_path / "in.zip", *COMMON)
    assert code == 2 and "must hold a document, got none; --suffix names what to read" in err and "in.zip:a.ndjson" in err
    assert run(capsys, tmp_path / "out", tmp_path / "in.zip", "--suffix", ".ndjson", *COMMON)[0] == 0


def test_a_folder_says_what_it_passed_over_and_why(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", DOCUMENTS)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / "paper.txt").write_bytes(b"%PDF-1.4\n")
    (folder / "wide.txt").write_text("wide", encoding="utf-16")
    (folder / "latin.md").write_bytes("höhe".encode("latin-1"))
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    (folder / "more").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    code, _, err = run(capsys, tmp_path / "out", folder, *COMMON)
    assert code == 0 and sorted(all_documents(tmp_path / "out")) == sorted(DOCUMENTS)
    [line] = [line for line in err.splitlines() if "passed over" in line]
    for part in ("passed over 9 files", f"1 of another suffix, which --suffix reads ({folder}/picture.png)", "2 hidden",
                 f"1 being a PDF document; extract its text first ({folder}/paper.txt)",
                 "1 being text in UTF-16; --encoding utf-16 reads it", "1 being a pipe", "1 being a link to a folder",
                 "1 being text of which more than 1% cannot be decoded as UTF-8; --encoding reads others",
                 "1 unreadable: No such file or directory"):
        assert part in line
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.parquet").write_bytes(parquet())
    message = refuse(capsys, tmp_path / "x", tmp_path / "none", *COMMON)
    assert "got none in" in message and "a.parquet" in message and "--suffix reads" in message


def test_a_byte_order_mark_is_never_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    for name, content in {"a.txt": DOCUMENTS[0].encode(), "a.jsonl": json_lines(DOCUMENTS[:1]), "a.json": json_list(DOCUMENTS[:1]),
                          "a.csv": rows(",", DOCUMENTS[:1])}.items():
        (tmp_path / name).write_bytes(mark + content)
        assert documents_of(tmp_path / name) == DOCUMENTS[:1], name
    (tmp_path / "only.txt").write_bytes(mark)
    assert documents_of(tmp_path / "only.txt") == []


@pytest.mark.parametrize("asked, written", [
    ("utf-16", "utf-16"), ("UTF-16LE", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("utf-16le", "utf-16"), ("utf-32", "utf-32"),
    ("utf-8-sig", "utf-8"), ("Latin-1", "latin-1"), ("cp1252", "cp1252"), ("shift_jis", "shift_jis"), ("gb18030", "gb18030")])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv"])
def test_other_encodings_are_read_where_they_are_asked_for(tmp_path, capsys, asked, written, suffix):
    text = {"latin-1": "grün, größer\n", "cp1252": "“grün” – größer\n", "shift_jis": "日本語 テキスト\n"}.get(written, DOCUMENTS[1])
    texts = [f"{index} {text}" for index in range(3000)]  # longer than a block
    content = {".txt": "".join(texts), ".json": json.dumps([{"text": text} for text in texts], ensure_ascii=False),
               ".jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
               ".csv": rows(",", texts).decode()}[suffix]
    (tmp_path / f"a{suffix}").write_bytes(content.encode(written))
    assert "".join(documents_of(tmp_path / f"a{suffix}", encoding=command.text_options(
        command.parse(["out", "--encoding", asked])).encoding)) == "".join(texts)
    if suffix == ".txt":
        assert run(capsys, tmp_path / "out", tmp_path / "a.txt", "--encoding", asked, *COMMON)[0] == 0
        assert ("encoding" in sidecar_of(tmp_path / "out")["source"]) == (asked != "utf-8-sig")


@pytest.mark.parametrize("marker", ["<|endoftext|>", "\n\n\n", "größe", "##"])
@pytest.mark.parametrize("size", [16, 40, 1000, 1 << 20])
def test_texts_split_at_a_marker_whatever_the_pieces(tmp_path, marker, size):
    wanted = [f"text {index} " + "längere Zeile " * (index % 7) + "end" for index in range(50)]
    joined = marker.join(["", *wanted[:20], "  \n", ""]) + marker + (marker + "\r\n").join(wanted[20:]) + marker + "\n"
    (tmp_path / "a.txt").write_text(joined, encoding="utf-8", newline="")
    assert documents_of(tmp_path / "a.txt", split_at=marker, document_bytes=size) == wanted
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": joined}) + "\n" + json.dumps({"text": "alone"}) + "\n")
    assert documents_of(tmp_path / "a.jsonl", split_at=marker, document_bytes=size) == [*wanted, "alone"]
    assert all(len(piece.text) <= size for piece in Corpus([str(tmp_path / "a.txt")], TextOptions(
        split_at=marker, document_bytes=size)))


def test_a_lone_file_with_a_marker_is_not_cut_small(tmp_path, capsys):
    stories = [f"Story {index}. " + "It goes on. " * 600 + "\n" for index in range(30)]
    (tmp_path / "stories.txt").write_text("<|endoftext|>\n".join(stories))
    code, _, err = run(capsys, tmp_path / "out", tmp_path / "stories.txt", "--split-at", "<|endoftext|>", *COMMON)
    assert code == 0 and "cut at line ends" not in err
    assert sorted(all_documents(tmp_path / "out")) == sorted(stories)
    assert sidecar_of(tmp_path / "out")["source"]["split_at"] == "<|endoftext|>"
    assert "with another split_at" in refuse(capsys, tmp_path / "out", tmp_path / "stories.txt", "--document-bytes",
                                             str(1 << 20), *COMMON)


def test_dictionaries_nulls_bytes_and_empty_texts_of_tables(tmp_path):
    columns = {"text": pyarrow.array(["a", None, "", "b", "a"]).dictionary_encode(), "large": pyarrow.array(
        ["x", "y"] * 2 + [None], pyarrow.large_string()), "raw": pyarrow.array([b"\xff", b"", None, b"r", b"s"])}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert documents_of(tmp_path / "a.parquet") == ["a", "b", "a"]
    assert documents_of(tmp_path / "a.parquet", text_field="large") == ["x", "y", "x", "y"]
    assert [piece.text for piece in Corpus([str(tmp_path / "a.parquet")], TextOptions(text_field="raw"))] == [b"\xff", b"r", b"s"]


def test_zstandard_of_several_frames_and_large_windows(tmp_path):
    compress = PACK[".zst"]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    (tmp_path / "a.txt.zst").write_bytes(skippable + compress(b"one ") + compress(b"two ") + skippable + compress(b"three"))
    assert documents_of(tmp_path / "a.txt.zst") == ["one two three"]
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "b.txt.zst").write_bytes(packer.compress(b"wide " * 1000) + packer.flush())
    assert documents_of(tmp_path / "b.txt.zst") == ["wide " * 1000]


@pytest.mark.parametrize("suffix, content", [
    (".jsonl.gz", b'{"text": "%s"}'), (".json.zst", b'[{"text": "%s"}]'), (".csv.bz2", b"text\n%s\n"), (".jsonl", b'{"text": "%s"}'),
    (".tsv.xz", b'text\n"%s"\n')])
def test_one_huge_line_is_refused_within_bounds_of_memory(tmp_path, suffix, content):
    size = 100_000_000
    before, after = content.split(b"%s")
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": zstandard.open}.get(suffix[suffix.rfind("."):], open)
    with opener(tmp_path / f"a{suffix}", "wb") as file:
        file.write(before)
        for _ in range(size // 10_000_000):
            file.write(b"a" * 10_000_000)
        file.write(after)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="must be at most 67108864 bytes, got more: --document-bytes lets longer"):
            documents_of(tmp_path / f"a{suffix}")
        assert tracemalloc.get_traced_memory()[1] < 350e6
    finally:
        tracemalloc.stop()


def test_longer_records_are_read_where_that_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["b" * 70_000_000]))
    with pytest.raises(RequestError, match="a.jsonl:1 must be at most"):
        documents_of(tmp_path / "a.jsonl")
    [text] = documents_of(tmp_path / "a.jsonl", document_bytes=80_000_000)
    assert len(text) == 70_000_000


def test_a_packed_text_without_lines_is_read_in_pieces(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(PACK[".zst"](b"a" * 150_000_000))
    tracemalloc.start()
    try:
        assert sum(len(piece.text) for piece in Corpus([str(tmp_path / "a.txt.zst")])) == 150_000_000
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_datasets_of_the_hub(tmp_path, capsys, monkeypatch):
    """Through a folder of this machine, which the package takes for a data set as it takes a name."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(parquet(DOCUMENTS))
    (tmp_path / "set" / "test.parquet").write_bytes(parquet(DOCUMENTS[:9]))
    name = f"hf:{tmp_path}/set"
    code, _, err = run(capsys, tmp_path / "out", name, *COMMON)
    assert code == 0, err
    assert sorted(all_documents(tmp_path / "out")) == sorted(DOCUMENTS)
    assert sidecar_of(tmp_path / "out")["source"]["split"] == "train"
    assert documents_of(name, split="test") == DOCUMENTS[:9]
    assert documents_of(name, split="train[:5]") == DOCUMENTS[:5]
    assert "with the split 'none' (--split), got" in refuse(capsys, tmp_path / "x", name, "--split", "none", *COMMON)
    assert "must have a column 'body' (--text-field), got 'id, text'" in refuse(
        capsys, tmp_path / "x", name, "--text-field", "body", *COMMON)
    assert "must hold text, got '0'" in refuse(capsys, tmp_path / "x", name, "--text-field", "id", *COMMON)
    message = refuse(capsys, tmp_path / "x", f"hf:{tmp_path}/nowhere", *COMMON)
    assert "must be a data set that the package datasets can read" in message
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert "must be read through the package datasets (pip install datasets)" in refuse(capsys, tmp_path / "x", name, *COMMON)
