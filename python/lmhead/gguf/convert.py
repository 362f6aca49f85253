"""Writes what a GGUF file holds as a folder in the Hugging Face layout, once, so that there is one way of reading models.

The folder is kept in a cache ($LMHEAD_CACHE, else lmhead in the user's cache folder) under the hash of the file, and made
anew when it is removed. Disk: four bytes a number for quantised tensors, as stored for F32, F16 and BF16. Memory: one
tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from lmhead.command import RequestError, load
from lmhead.formats import one_line
from lmhead.gguf import architectures, vocabulary
from lmhead.gguf.header import Header, TensorInfo, read_header
from lmhead.safetensors_header import write_header

MAKING = 1  # counts up where the same file would give another folder
DONE = "gguf.json"  # written last: what the folder was made of, and why it has no tokenizer
MOST_ROW_BYTES = 1 << 26  # dequantised at once
AS_STORED = {"F32": "F32", "F16": "F16", "BF16": "BF16"}


def cache_folder() -> Path:
    """Where folders made of files are kept."""
    named = os.environ.get("LMHEAD_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmhead"


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a regular file. Raises RequestError where there are none to be had."""
    with contextlib.ExitStack() as open_files:
        try:
            if not path.is_file():
                raise RequestError(f"{path} must be a regular file, got none")
            file = open_files.enter_context(open(path, "rb"))
            data = open_files.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:
            raise RequestError(f"{path} must be a whole GGUF file, got an empty one") from None
        except OSError as error:
            raise RequestError(f"{path} must be readable, got: {error.strerror}") from None
        yield data


class Source:
    """The tensors of a mapped file, of which every one has been checked to lie inside it and to be of a known kind."""

    def __init__(self, data: mmap.mmap, header: Header, path: Path):
        package = load("gguf", "gguf")
        quants = load("gguf.quants", "gguf")
        self._data, self._dequantize = data, quants.dequantize
        self.kinds: dict[str, Any] = {}
        self.names: dict[str, tuple[str, architectures.Change | None]] = {}
        _, self.architecture = architectures.architecture_of(header)
        for name, info in header.tensors.items():
            try:
                kind = package.GGMLQuantizationType(info.type)
            except ValueError:
                raise RequestError(f"{path}: {name[:80]!r} must be of a quantisation that the package gguf knows, got type "
                                   f"{info.type}") from None
            if kind.name not in ("F32", "F16", *(known.name for known in quants._type_traits)):
                raise RequestError(f"{path}: {name[:80]!r} must be of a quantisation that can be undone, got {kind.name}")
            per, size = package.GGML_QUANT_SIZES[kind]
            if info.shape[-1] % per:
                raise RequestError(f"{path}: the rows of {name[:80]!r} must be whole blocks of {per} in {kind.name}, got "
                                   f"{info.shape[-1]}")
            need = math.prod(info.shape) // per * size
            if need == 0 or info.offset + need > len(data):
                raise RequestError(f"{path}: {name[:80]!r} must lie in the file, got bytes {info.offset} to "
                                   f"{info.offset + need} of {len(data)}")
            self.kinds[name] = (kind, per, size)
            if name != "rope_freqs.weight":
                self.names[name] = architectures.checkpoint_name(self.architecture, name)

    def values(self, info: TensorInfo) -> numpy.ndarray:
        """[shape]: as stored for plain floating numbers (bfloat16 as uint16), float32 for quantised ones."""
        kind, per, size = self.kinds[info.name]
        rows, row_bytes = math.prod(info.shape[:-1]), info.shape[-1] // per * size
        raw = numpy.frombuffer(self._data, numpy.uint8, rows * row_bytes, info.offset).reshape(rows, row_bytes)
        if kind.name in AS_STORED:
            return raw.view({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[kind.name]).reshape(info.shape).copy()
        whole = numpy.empty((rows, info.shape[-1]), numpy.float32)
        step = max(1, MOST_ROW_BYTES // (4 * info.shape[-1]))
        for row in range(0, rows, step):
            whole[row : row + step] = self._dequantize(raw[row : row + step], kind)
        return whole.reshape(info.shape)

    def stored_type(self, info: TensorInfo) -> str:
        change = self.names[info.name][1]
        kind = AS_STORED.get(self.kinds[info.name][0].name, "F32")
        return "F32" if change is architectures.less_one else kind  # which no bfloat16 holds


def widened(values: numpy.ndarray) -> numpy.ndarray:
    """float32 of what `Source.values` gives."""
    return (values.astype("<u4") << 16).view("<f4") if values.dtype == numpy.uint16 else values.astype("<f4")


def write_tensors(file: BinaryIO, source: Source, header: Header, config: dict[str, Any]) -> None:
    """Writes a safetensors file tensor by tensor."""
    infos = [info for name, info in header.tensors.items() if name in source.names]
    tensors = []
    for info in infos:
        name, change = source.names[info.name]
        shape = info.shape[::-1] if change is architectures.transpose else info.shape
        tensors.append((name, source.stored_type(info), shape))
    if len({name for name, _, _ in tensors}) != len(infos):
        raise RequestError("every tensor must have a place of its own, got two for one")
    write_header(file, tensors)
    for info in infos:
        _, change = source.names[info.name]
        values = source.values(info)
        if source.stored_type(info) == "F32" and values.dtype != numpy.float32:
            values = widened(values)
        if change is not None:
            values = change(values, config)
        file.write(numpy.ascontiguousarray(values).data)


def quantisation(source: Source, header: Header) -> dict[str, Any]:
    """What the figures are of: the kinds of tensors, and the kind of the head's matrix, which they depend on most."""
    counts: dict[str, int] = {}
    for kind, _, _ in source.kinds.values():
        counts[kind.name] = counts.get(kind.name, 0) + 1
    matrices = {name: count for name, count in counts.items() if name not in AS_STORED} or counts
    head = "output.weight" if "output.weight" in header.tensors else "token_embd.weight"
    main = max(matrices, key=lambda name: matrices[name])
    return {"name": main, "head": source.kinds[head][0].name, "tensors": dict(sorted(counts.items()))}


def fill(folder: Path, path: Path, data: mmap.mmap) -> None:
    """Writes config.json, model.safetensors, tokenizer.json where it can be told, and gguf.json."""
    header = read_header(data, path)
    config = architectures.configuration(header)
    source = Source(data, header, path)
    if "rope_freqs.weight" in header.tensors:
        divisors = widened(source.values(header.tensors["rope_freqs.weight"])).astype(numpy.float64)
        config["rope_scaling"] = architectures.llama3_scaling(divisors, config)
    described = quantisation(source, header)
    config["gguf"] = {"quantization": described["name"], "head_quantization": described["head"], "tensors": described["tensors"]}
    need = sum(4 * math.prod(info.shape) for info in header.tensors.values())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise RequestError(f"{folder.parent} must have {need >> 20} MiB free for the tensors of {path}, got {free >> 20}; "
                           "LMHEAD_CACHE names another folder")
    why = None
    try:
        tokenizer = vocabulary.build(header.fields)
        tokenizer.save(str(folder / "tokenizer.json"))
        names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
        tokens = header.fields["tokenizer.ggml.tokens"]
        special = {name: tokens[config[key]] for name, key in names.items() if config.get(key, len(tokens)) < len(tokens)}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
        template = header.fields.get("tokenizer.chat_template")
        if isinstance(template, str):
            settings["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    except RequestError as error:
        why = str(error)
    except Exception as error:  # tokenizers raises Exception itself
        why = f"tokenizer.ggml must describe a tokenizer, got {type(error).__name__}: {one_line(error)[:120]}"
    with open(folder / "model.safetensors", "wb") as file:
        write_tensors(file, source, header, config)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / DONE).write_text(json.dumps({"file": path.name, "no_tokenizer": why, **described}), encoding="utf-8")


def content_hash(data: mmap.mmap) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(data), 1 << 24):
        digest.update(data[at : at + (1 << 24)])
    return digest.hexdigest()


def convert(given: str | os.PathLike[str]) -> str:
    """The folder of a GGUF file's model, made if it is not there yet; says on standard error where it has no tokenizer.

    Raises RequestError, in one line, on whatever cannot be read, undone or computed as it should be.
    """
    path = Path(given)
    with mapped(path) as data:
        root = cache_folder() / "gguf"
        folder = root / f"{content_hash(data)[:32]}-{MAKING}"
        if not (folder / DONE).is_file():
            try:
                root.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix="making-", dir=root) as made:
                    fresh = Path(made) / "model"
                    fresh.mkdir()
                    fill(fresh, path, data)
                    with contextlib.suppress(OSError):  # another process was as fast: its folder is the same
                        os.rename(fresh, folder)
            except OSError as error:
                raise RequestError(f"{root} must be writable, got: {error.strerror}; LMHEAD_CACHE names another folder") from None
            except (OverflowError, MemoryError, ValueError, TypeError, LookupError, RecursionError) as error:
                raise RequestError(f"{path} must be a GGUF file that says what it holds, got {type(error).__name__}: "
                                   f"{one_line(error)[:120]}") from None
    why = json.loads((folder / DONE).read_text(encoding="utf-8"))["no_tokenizer"]
    if why:
        print(f"[gguf] {one_line(path)} has no tokenizer that is known, so ids alone can be given: {one_line(why)}", file=sys.stderr)
    return str(folder)


def is_gguf(given: str | os.PathLike[str]) -> bool:
    """Whether a MODEL stands for a file that this module reads."""
    return os.fspath(given).endswith(".gguf") and os.path.exists(given)
