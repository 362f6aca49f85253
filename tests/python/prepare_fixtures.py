"""Text to prepare, the command inside this process, and datasets read back."""

import hashlib
import json
from pathlib import Path

import numpy
import tokenizers
from lmhead.prepare import command

PYTHON = Path(command.__file__).resolve().parents[2]
# In slices: a signal that comes between Python's last look for one and the call of `sleep` is seen when that returns.
SLEEP_A_MINUTE = "any(time.sleep(0.05) for _ in range(1200))"


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
    code = command.main([str(argument) for argument in arguments])
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
