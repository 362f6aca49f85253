"""One of several processes that train a list of runs together, one after another: python parallel_process.py JOBS.json.

A job is what stands behind `lmhead train`, or a list of that for every rank; `cwd=FOLDER` in front of it is where. Starting a process takes seconds, a run of these tests tens of milliseconds.
"""

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from lmhead import training  # noqa: E402


def cut_back(run, folder):
    """A copy of a run that was killed after its last checkpoint but one."""
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(max((folder / "checkpoints").glob("step-*")))


def main():
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    group = ""
    if size > 1:
        import torch.distributed as dist

        training._join(rank, size)
        group = dist.group.WORLD.group_name
    command = training._command()
    said, home = [], os.getcwd()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)  # the command closes it
        if null != 1:
            os.close(null)
        own = job[rank] if isinstance(job[0], list) else job
        where = own[0].removeprefix("cwd=") if own[0].startswith("cwd=") else None
        os.chdir(where or home)
        if own[0].startswith("again="):
            if rank == 0:
                cut_back(Path(own[0].removeprefix("again=")), Path(own[1]))
            if size > 1:
                dist.barrier()
        code, failure, _ = command([argument for argument in own if not argument.startswith(("cwd=", "again="))], group, rank, size)
        said.append([code, failure])
    Path(f"{sys.argv[1]}.{rank}").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
