"""The one reader of text: what is no text is refused, with what it is and what to do about it."""

import io
import json
import os
import subprocess
import sys
import zipfile

import numpy
import pytest
from prepare_fixtures import PYTHON, left_over, refuse, run, texts, write_folder

pyarrow = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")

TEXT = "".join(texts(60))
SAFETENSORS = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


def packed(**options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", TEXT)
    return out.getvalue()


@pytest.mark.parametrize("name, content, part", [
    ("a.pdf", b"%PDF-1.7\n%\xe2\xe3\n", "a PDF document; extract its text first"),
    ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(50), "an image; extract"),
    ("a.bin", b"\x7fELF\2\1\1" + bytes(50), "a program; extract"),
    ("a.txt", len(SAFETENSORS).to_bytes(8, "little") + SAFETENSORS + bytes(8), "a safetensors file; give a model as MODEL"),
    ("a.gguf", b"GGUF\3\0\0\0" + bytes(50), "a GGUF model"),
    ("a.docx", packed(), "a zip archive, or a document or model that is one inside; name it .zip"),
    ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(20), "packed in a way that is not read; unpack it first"),
    ("a.npy", b"\x93NUMPY\1\0" + bytes(20), "a file of arrays or Python objects"),
    ("a.pkl", b"\x80\x05\x95" + bytes(20), "a file of arrays or Python objects"),
    ("a.bin", numpy.array([20240520, 1, 3] + [0] * 253, "<i4").tobytes(), "token ids of llm.c; data.path of lmhead train"),
    ("a.db", b"SQLite format 3\0" + bytes(50), "a database; export its text"),
    ("a.dat", TEXT.encode() + b"\0" + TEXT.encode(), "a file with NUL bytes; if it is text, --suffix with its suffix says so"),
    ("a.txt", TEXT.encode("utf-16"), "text in UTF-16; --encoding utf-16 reads it"),
    ("a.txt", TEXT.encode("utf-32"), "text in UTF-32; --encoding utf-32 reads it"),
    ("a.jsonl", json.dumps({"text": "a"}).encode("utf-16"), "text in UTF-16; --encoding utf-16 reads it"),
    ("a.txt", TEXT.encode("utf-16-le"), "text in UTF-16 without a byte order mark; --encoding utf-16-le reads it"),
    ("a.txt", TEXT.encode("utf-16-be"), "text in UTF-16 without a byte order mark; --encoding utf-16-be reads it"),
    ("a.txt", b"caf\xe9 " * 100, "text of which more than 1% cannot be decoded as UTF-8 (20.0%); --encoding reads others"),
    ("a.txt", numpy.random.default_rng(0).integers(1, 256, 5000).astype("u1").tobytes(), "more than 1% cannot be decoded"),
    ("a.txt", b"a" * (1 << 21) + b"\xe9" * 50_000, "more than 1% cannot be decoded as UTF-8 (2.3%)"),
    ("a.txt.zst", zstandard.ZstdCompressor().compress(b"%PDF-1.7"), "a PDF document"),
    ("a.parquet", b"no table at all", "a.parquet must be a Parquet file that can be read, got"),
    ("a.parquet", b"PAR1" + bytes(50) + b"PAR1", "a.parquet must be a Parquet file that can be read, got"),
    ("a.arrow", b"no table at all", "a.arrow must be an Arrow file that can be read, got"),
    ("a.txt.zst", zstandard.ZstdCompressor().compress(os.urandom(9999))[:-99], "a.txt.zst must be readable, got: the file ends inside"),
    ("a.txt.zst", b"no frame", "a.txt.zst must be readable"),
    ("a.txt.bz2", b"no bzip2", "a.txt.bz2 must be readable"),
    ("a.zip", b"no archive", "a.zip must be readable, got: File is not a zip file"),
    ("a.zip", packed()[:-30], "a.zip must be readable"),
    ("a.csv", b"id,body\n1,a\n", "a.csv must have a column 'text' (--text-field) in its first row, got 'id, body'"),
    ("a.csv", b"", "a.csv must have a column 'text' (--text-field) in its first row"),
    ("a.csv", b'id,text\n1\n', "a.csv:2 must have 2 columns, got 1"),
    ("a.csv", b'id,text\n1,"a\nb', "a.csv:3 must be a row of CSV, got: unexpected end of data"),
    ("a.json", b'[{"text": "a"}, {"text": "b"}', "a.json must be JSON, got a list without an end behind 2 objects"),
    ("a.json", b'[{"text": "a"} {"text": "b"}]', "a.json must be JSON, got"),
    ("a.json", b'[{"text": "a"},]', "a.json must be JSON, got"),
    ("a.json", b'[{"text": "a"}] more', "a.json must be JSON, got"),
    ("a.json", b'[{"text": "a"', "a.json must be JSON, got"),
    ("a.json", b'{"text": nonsense and a good deal more of it}', "a.json must be JSON, got '{\"text\": nonsense"),
    ("a.json", b"[" * 100000, "a.json must be JSON, got"),
    ("a.json", b"{}", "a.json: object 1 must be an object with the text 'text' (--text-field), got '{}'"),
    ("a.json", b'{"data": [1]}', "(--text-field), got '{\"data\": [1]}' with the keys 'data'"),
    ("a.json", b'["a", "b"]', "a.json: object 1 must be an object with the text 'text'"),
    ("a.ndjson", b'{"text": "a"}\n{', "a.ndjson:2 must be a line of JSON, got '{'"),
])  # fmt: skip
def test_what_is_no_text_is_refused_with_what_to_do(tmp_path, capsys, name, content, part):
    (tmp_path / name).write_bytes(content)
    line = refuse(capsys, tmp_path / "out", tmp_path / name, "--bytes")
    assert part in line and name in line
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []


def test_what_has_some_undecodable_or_nul_bytes_is_text_where_that_is_known(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(TEXT.encode() + b"\xe9\0\n" + TEXT.encode())
    assert run(capsys, tmp_path / "out", tmp_path / "a.txt", "--bytes", "--document-bytes", "100")[0] == 0
    (tmp_path / "a.dat").write_bytes(TEXT.encode() + b"\0\n" + TEXT.encode())
    arguments = (tmp_path / "more", tmp_path / "a.dat", "--bytes", "--document-bytes", "100")
    assert run(capsys, *arguments, "--suffix", ".dat")[0] == 0


@pytest.mark.parametrize("encoding", ["klingon", "", "base64", "rot13", "hex", "a\0b"])
def test_encodings_that_are_none_are_refused(tmp_path, capsys, encoding):
    line = refuse(capsys, tmp_path / "out", write_folder(tmp_path / "in", texts(3)), "--encoding", encoding)
    assert "--encoding must be an encoding of text that Python knows" in line
    assert "--split-at must not be empty" in refuse(capsys, tmp_path / "out", tmp_path / "in", "--split-at", "")


def test_pipes_and_devices_are_refused_where_a_file_is_expected(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    folder = write_folder(tmp_path / "in", texts(40))
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device")):
        assert f"an input must be a file, got {kind}" in refuse(capsys, tmp_path / "out", path, "--bytes")
        assert f"--tokenizer must be a file, got {kind}" in refuse(capsys, tmp_path / "out", folder, "--tokenizer", path)
    assert run(capsys, tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3")[0] == 0
    (tmp_path / "out" / "train.bin").unlink()
    os.mkfifo(tmp_path / "out" / "train.bin")
    assert run(capsys, tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3")[0] == 0
    (tmp_path / "out" / "dataset.json").unlink()
    os.mkfifo(tmp_path / "out" / "dataset.json")
    assert "OUT must be absent" in refuse(capsys, tmp_path / "out", folder, "--bytes", "--validation-fraction", "0.3")


def test_names_that_are_not_utf8_work(tmp_path):
    folder = os.fsencode(tmp_path) + b"/gr\xfcn"
    write_folder(tmp_path / "in", texts(40)).rename(os.fsdecode(folder))
    out = os.fsencode(tmp_path) + b"/\xff"
    for word in (b"wrote", b"nothing to do"):
        done = subprocess.run([os.fsencode(sys.executable), b"-m", b"lmhead", b"prepare", out, folder, b"--bytes",
                               b"--validation-fraction", b"0.3"], env={**os.environ, "PYTHONPATH": str(PYTHON)},
                              capture_output=True)
        assert done.returncode == 0 and word in done.stdout, done.stderr
    sidecar = json.loads(open(out + b"/dataset.json", "rb").read())
    assert sidecar["source"]["inputs"] == [f"{tmp_path}/gr\\xfcn"]


def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path):
    import resource

    folder = write_folder(tmp_path / "in", texts(400))
    done = subprocess.run([sys.executable, "-m", "lmhead", "prepare", tmp_path / "out", folder, "--bytes"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(PYTHON)}, capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)))
    assert done.returncode == 2 and "must be writable, got: File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and left_over(tmp_path) == [] and not (tmp_path / "out").exists()
