"""`lmhead train` as the first of very many processes, of which there is no other: python fake_group.py PROCESSES ARGUMENT...

PyTorch's fake process group answers at once, with what this process sent; what is computed means nothing, what is sent is what it would be.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

import torch.distributed as dist  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

from lmhead import training  # noqa: E402


def main():
    size = int(sys.argv[1])
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    code, failure, _ = training._command()(sys.argv[2:], dist.group.WORLD.group_name, 0, size)
    print(failure, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
