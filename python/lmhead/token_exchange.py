"""What travels between the processes of a group: rows of tokens, which all have or of which each has its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

# Older releases of PyTorch have the other names only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Group:
    """A process group, or this process alone where there is none."""

    def __init__(self, group: dist.ProcessGroup | None, who: str):
        self.group = group
        is_there = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if is_there else 1
        self.rank = dist.get_rank(group) if is_there else 0
        if self.rank < 0:
            raise ValueError(f"{who} group must hold this process, got one that does not")

    def gather(self, tensor: Tensor) -> Tensor:
        """``[P, ...]``: every process's, which must be of one shape."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        gathered = tensor.new_empty((self.size, *tensor.shape))
        _all_gather(gathered.flatten(0, 1) if tensor.dim() else gathered, tensor.contiguous(), group=self.group)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def sum_of_parts(self, tensor: Tensor) -> Tensor:
        """Of ``[P, ...]`` the part of this process, summed over processes."""
        if self.size == 1:
            return tensor[0]
        part = torch.empty_like(tensor[0])
        _reduce_scatter(part, tensor.contiguous().flatten(0, 1), group=self.group)
        return part


@dataclass
class Tokens:
    """Whose tokens are whose, and which count. Rows are tokens: N here, M in all processes."""

    group: Group
    is_sharded: bool
    sizes: list[int] = field(default_factory=list)  # tokens of every process, where they are sharded
    kept: Tensor | None = None  # the rows that count, of the M; None: all

    def whole(self, own: Tensor) -> Tensor:
        """Of every token ``[M, ...]`` from what this process has, ``[N, ...]``; only the rows that count."""
        if self.is_sharded and self.group.size > 1:
            padded = own.new_zeros((max(self.sizes), *own.shape[1:]))
            padded[: own.shape[0]] = own
            parts = self.group.gather(padded)
            own = torch.cat([part[:size] for part, size in zip(parts, self.sizes)])
        return own if self.kept is None else own[self.kept]

    def own(self, whole: Tensor) -> Tensor:
        """The other way, for what is the same in all processes."""
        whole = self._spread(whole)
        if not self.is_sharded:
            return whole
        begin = sum(self.sizes[: self.group.rank])
        return whole[begin : begin + self.sizes[self.group.rank]]

    def summed(self, whole: Tensor) -> Tensor:
        """The same for what must still be summed over processes."""
        whole = self._spread(whole)
        if not self.is_sharded or self.group.size == 1:
            return self.group.sum(whole)
        padded = whole.new_zeros((self.group.size, max(self.sizes), *whole.shape[1:]))
        for part, of_process in zip(padded, whole.split(self.sizes)):
            part[: of_process.shape[0]] = of_process
        return self.group.sum_of_parts(padded)[: self.sizes[self.group.rank]]

    def _spread(self, kept_rows: Tensor) -> Tensor:
        if self.kept is None:
            return kept_rows
        whole = kept_rows.new_zeros((self.kept.shape[0], *kept_rows.shape[1:]))
        whole[self.kept] = kept_rows
        return whole
