"""Texts of a column of Parquet and Arrow files, through pyarrow, and of data sets of the hub, through `datasets`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from lmhead.command import RequestError
from lmhead.prepare.options import TextOptions
from lmhead.prepare.records import excerpt, too_long

ROWS_AT_ONCE = 256


def texts_of_parquet(name: str, stream: IO[bytes], options: TextOptions) -> Iterator[bytes]:
    """Memory: a row group's column, as its writer chose its size."""
    import pyarrow
    import pyarrow.parquet

    with readable(name, "a Parquet file"):
        file = pyarrow.parquet.ParquetFile(stream)
        require_column(name, file.schema_arrow.names, options.text_field)
        batches = file.iter_batches(ROWS_AT_ONCE, columns=[options.text_field], use_threads=False)
    yield from texts_of_batches(name, "a Parquet file", batches, options)


def texts_of_arrow(name: str, stream: IO[bytes], options: TextOptions) -> Iterator[bytes]:
    """Of both forms of Arrow's own files: with a table of contents (.feather too), and the stream that `datasets` keeps."""
    import pyarrow

    with readable(name, "an Arrow file"):
        has_contents = stream.read(6) == b"ARROW1"
        stream.seek(0)
        if has_contents:
            file = pyarrow.ipc.open_file(stream)
            schema, batches = file.schema, (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            file = pyarrow.ipc.open_stream(stream)
            schema, batches = file.schema, file
        require_column(name, schema.names, options.text_field)
    yield from texts_of_batches(name, "an Arrow file", batches, options)


def texts_of_hub(given: str, options: TextOptions) -> Iterator[bytes]:
    """Of "hf:NAME" or "hf:NAME:CONFIGURATION", fetched into the cache of `datasets` where it is not there yet."""
    try:
        import datasets
    except ImportError:
        raise RequestError(f"{given} must be read through the package datasets (pip install datasets), got none") from None
    path, _, configuration = given.removeprefix("hf:").partition(":")
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            data = datasets.load_dataset(path, configuration or None, split=options.split)
    except Exception as error:  # of many kinds: names, splits, network, rights, disk
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{given} must be a data set that the package datasets can read, with the split {options.split!r} (--split), "
            f"got {type(error).__name__}: {reason}"
        ) from None
    require_column(given, data.column_names, options.text_field)
    field = options.text_field
    for rows in data.select_columns([field]).iter(ROWS_AT_ONCE):
        yield from texts_of_values(given, rows[field], options)


@contextlib.contextmanager
def readable(name: str, what: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RequestError(f"{name} must be {what} that can be read, got: {reason}") from None


def require_column(name: str, names: list[str], field: str) -> None:
    if field not in names:
        raise RequestError(f"{name} must have a column {field!r} (--text-field), got {excerpt(', '.join(names))}")


def texts_of_batches(name: str, what: str, batches: Iterable, options: TextOptions) -> Iterator[bytes]:
    batches = iter(batches)
    while True:
        with readable(name, what):
            batch = next(batches, None)
            values = None if batch is None else batch.column(batch.schema.names.index(options.text_field)).to_pylist()
        if values is None:
            return
        yield from texts_of_values(name, values, options)


def texts_of_values(name: str, values: list[Any], options: TextOptions) -> Iterator[bytes]:
    field, limit = options.text_field, options.record_bytes
    for value in values:
        if value is None:
            continue
        if not isinstance(value, (str, bytes)):
            raise RequestError(f"{name}: the column {field!r} (--text-field) must hold text, got {excerpt(repr(value))}")
        text = value.encode("utf-8", "replace") if isinstance(value, str) else value
        if len(text) > limit:
            raise too_long(f"{name}: a text in the column {field!r}", limit)
        yield text
