"""``lmhead train`` in a process of Python: alone, or together with the others that torchrun has started.

    torchrun --nproc-per-node 2 -m lmhead train CONFIG [KEY=VALUE ...] --run-folder FOLDER

All processes are given the same arguments. The process group is made here (Gloo, and NCCL beside it where there is CUDA);
the native code reaches it by its name. One process prints what came of it, whichever of them failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lmhead import process
from lmhead.formats import one_line

TIMEOUT = "LMHEAD_PROCESS_TIMEOUT"  # seconds that one waits for another; environment variable
_DEFAULT_TIMEOUT = 1800
_PATIENCE = 3  # seconds in which those that are left say that they are
_BYTES = 4096  # of a line that says why


class _Refused(Exception):
    """No group could be made; says why in one line."""


def main(argv: list[str]) -> int:
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return _command()(argv, "", 0, 1)[0]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of a lost connection, which is said in a line here
    import torch.distributed as dist

    try:
        store = _join(rank, size)
        group = dist.group.WORLD
        assert group is not None
        code, failure, is_lost = _command()(argv, group.group_name, rank, size)
    except _Refused as refused:
        print(f"[train] {refused}", file=sys.stderr)
        return 2
    process.interruptions.over()  # what is left to do takes a moment
    if not failure:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        return code
    line = line_to_print(store, rank, size, failure, is_lost)
    if line:
        print(line, file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)  # a group whose processes are gone may not let go


def _join(rank: int, size: int) -> Any:
    """Makes the default process group, and returns what all processes can write to and read from."""
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    has_cuda = torch.cuda.is_available()
    if has_cuda:  # not yet run on a GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        timeout = datetime.timedelta(seconds=float(os.environ.get(TIMEOUT, _DEFAULT_TIMEOUT)))
    except (ValueError, OverflowError):
        raise _Refused(f"{TIMEOUT} must be a number of seconds, got {os.environ[TIMEOUT]!r}") from None
    # Who listens at the port and is no store may be waited for without end.
    given_up = threading.Timer(timeout.total_seconds() + _PATIENCE, _give_up, [size, timeout.total_seconds()])
    given_up.daemon = True
    given_up.start()
    try:
        shared, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
        store = fresh_store(shared, rank, size, timeout.total_seconds())
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:  # a port in use, a process that never came
        raise _Refused(f"{size} processes must find one another, got: {one_line(str(error).splitlines()[0])}") from None
    finally:
        given_up.cancel()
    return dist.PrefixStore("lmhead", store)


def _give_up(size: int, seconds: float) -> None:
    where = one_line(f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}")
    print(f"[train] {size} processes must find one another, got: no answer of theirs at {where} in {seconds:g} seconds", file=sys.stderr, flush=True)
    os._exit(2)


def fresh_store(store: Any, rank: int, size: int, timeout: float) -> Any:
    """A part of ``store`` that nothing was written to before these processes met.

    torchrun's store outlives restarts. Who finds there where a process listened that was killed since waits for it until the time is
    over; so the first process names a part of it, and tells those who show that they are here now: by a number that nobody can have
    known.
    """
    import torch.distributed as dist

    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"lmhead/seeks/{rank}", own)
        start = store.get(f"lmhead/told/{own}").decode()
        store.set(f"lmhead/here/{start}/{rank}", "")
        return dist.PrefixStore(start, store)
    deadline = time.monotonic() + timeout
    left, told = set(range(1, size)), set()
    while left:
        for other in sorted(left):
            if store.check([f"lmhead/here/{own}/{other}"]):
                left.remove(other)
            elif store.check([f"lmhead/seeks/{other}"]) and (number := store.get(f"lmhead/seeks/{other}").decode()) not in told:
                store.set(f"lmhead/told/{number}", own)
                told.add(number)
        if left and time.monotonic() > deadline:
            raise RuntimeError(f"no word from process {min(left)} in {timeout:g} seconds")
        time.sleep(0.01 if left else 0)
    return dist.PrefixStore(own, store)


def _command() -> Callable[[list[str], str, int, int], tuple[int, str, bool]]:
    """The native command: exit code, the line that it has not printed, whether that says that another process is gone."""
    from lmhead import ops

    library = ctypes.CDLL(str(ops.library_path().with_name("liblmhead_command.so")))

    def call(argv: list[str], group: str, rank: int, size: int) -> tuple[int, str, bool]:
        arguments = [os.fsencode(argument) for argument in ("lmhead", "train", *argv)]
        failure, is_lost = ctypes.create_string_buffer(_BYTES), ctypes.c_int(0)
        code = library.lmhead_command(
            len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None), group.encode(), rank, size, failure, _BYTES,
            ctypes.byref(is_lost),
        )  # fmt: skip
        return code, failure.value.decode(errors="replace"), bool(is_lost.value)

    return call


def line_to_print(store: Any, rank: int, size: int, failure: str, is_lost: bool) -> str | None:
    """Of all processes that failed one is given the line that says why; the others None.

    What a process found wrong by itself it leaves in the store; who only noticed that another one is gone looks there for
    the reason, and for who is left to tell it.
    """
    try:
        store.set(f"failed/{rank}", json.dumps([failure, is_lost]))
        if not is_lost:
            return failure if rank == 0 else None
        others = [other for other in range(size) if other != rank]
        deadline = time.monotonic() + _PATIENCE
        said: dict[int, tuple[str, bool]] = {}
        while time.monotonic() < deadline and len(said) < len(others):
            for other in others:
                if other not in said and store.check([f"failed/{other}"]):
                    said[other] = tuple(json.loads(store.get(f"failed/{other}")))
            time.sleep(0.05)
    except Exception:  # the store is gone too: torchrun's with its machine, else that of the first process
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return failure
        return _lost([0], size) if rank == 1 else None
    if rank > min(said, default=size):
        return None
    for other, (reason, other_lost) in sorted(said.items()):
        if not other_lost:
            return f"{reason} (in process {other})"
    lost = [other for other in others if other not in said]
    return _lost(lost, size) if lost else failure


def _lost(ranks: list[int], size: int) -> str:
    named = f"process {ranks[0]}" if len(ranks) == 1 else "processes " + ", ".join(map(str, ranks))
    return f"[train] every process must go on to the end, got {named} of {size} lost; the newest checkpoint is kept"
