"""A cross-entropy over the rows of several processes is that of one: losses, gradients, statistics, and what is refused."""

import functools
import os
import pathlib
import pickle
import socket
import tempfile

import pytest
import torch
import torch.distributed as dist

N, D, V = 23, 12, 101  # V is no multiple of any number of processes
CASES = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "bias": {"linear_bias": True},
    "soft-cap": {"logit_softcap": 3.0, "logit_scale": 0.7},
    "sigmoid cap": {"sigmoid_cap": (23.0, 5.0, 7.5)},
    "sigsoftmax": {"sigsoftmax": True, "linear_bias": True},
    "smoothing": {"label_smoothing": 0.2},
    "smoothing of everything": {"label_smoothing": 1.0, "logit_softcap": 4.0},
    "z-loss": {"z_loss": 0.01},
    "class weights": {"weight": True},
    "class weights and smoothing": {"weight": True, "label_smoothing": 0.3, "logit_softcap": 5.0, "linear_bias": True},
    "token weights": {"token_weight": True, "reduction": "sum"},
    "temperature": {"temperature": True},
    "one temperature": {"temperature": 0.5, "z_loss": 0.1},
    "ignored": {"ignored": True},
    "ignored, losses": {"ignored": True, "reduction": "none", "token_weight": True, "label_smoothing": 0.1},
    "all at once": {"ignored": True, "weight": True, "token_weight": True, "temperature": True, "label_smoothing": 0.1,
                    "z_loss": 0.01, "logit_softcap": 6.0, "linear_bias": True},
}  # fmt: skip


def problem_of(options, dtype):
    """Whole tensors, and the options with theirs."""
    draw = torch.Generator().manual_seed(7)
    normal = functools.partial(torch.randn, generator=draw, dtype=torch.float64)
    tensors = {"input": normal(N, D), "linear_weight": normal(V, D), "linear_bias": normal(V), "weight": normal(V).abs()}
    rows = {"token_weight": normal(N).abs(), "temperature": normal(N).abs() + 0.5}
    target = torch.randint(V, (N,), generator=draw)
    target[:3] = torch.tensor([0, V - 1, V // 2])  # the first and the last row of the vocabulary
    if options.get("ignored"):
        target[1::4] = -100
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    chosen = {name: value for name, value in options.items() if name != "ignored"}
    of_rows = {name: (rows[name] if value is True else value) for name, value in chosen.items() if name in rows}
    of_words = {name: tensors[name] for name in ("linear_bias", "weight") if chosen.get(name)}
    plain = {name: value for name, value in chosen.items() if name not in {*rows, "linear_bias", "weight"}}
    return tensors["input"], tensors["linear_weight"], target, of_words, of_rows, plain


def shards(length, rank, size):
    """Uneven parts: rank r takes r + 1 shares."""
    bounds = [length * (r * (r + 1) // 2) // (size * (size + 1) // 2) for r in range(size + 1)]
    return slice(bounds[rank], bounds[rank + 1])


def gradients(loss, upstream, *leaves):
    (loss * upstream).sum().backward()
    return [leaf.grad for leaf in leaves]


def expect_close(got, wanted, dtype, what):
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    error = (got.double() - wanted.double()).abs().max().item() if got.numel() else 0.0
    scale = max(1.0, wanted.double().abs().max().item() if wanted.numel() else 1.0)
    assert got.shape == wanted.shape and error <= tolerance * scale, f"{what}: {error} of {scale}"


def check_case(rank, size, options, layout, dtype):
    import lmhead

    hidden, weight, target, of_words, of_rows, plain = problem_of(options, torch.float64)
    whole = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    words = {name: value.clone().requires_grad_(name == "linear_bias") for name, value in of_words.items()}
    loss = lmhead.linear_cross_entropy(whole[0], whole[1], target, **words, **of_rows, **plain)
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    wanted = gradients(loss, upstream, *whole, *words.values())

    here, tokens = shards(V, rank, size), slice(None) if layout == "replicated" else shards(N, rank, size)
    own = [hidden[tokens].to(dtype).requires_grad_(), weight[here].to(dtype).requires_grad_()]
    own_words = {name: value[here].to(dtype).requires_grad_(name == "linear_bias") for name, value in of_words.items()}
    own_rows = {name: value[tokens] if isinstance(value, torch.Tensor) else value for name, value in of_rows.items()}
    got = lmhead.vocabulary_parallel_cross_entropy(
        *own, target[tokens], hidden_layout=layout, **own_words, **own_rows, **plain
    )
    per_token = plain.get("reduction") == "none"
    expect_close(got, loss.detach()[tokens] if per_token else loss.detach(), dtype, "loss")
    found = gradients(got, upstream[tokens] if per_token else upstream, *own, *own_words.values())
    expect_close(found[0], wanted[0][tokens], dtype, "gradient of input")
    expect_close(found[1], wanted[1][here], dtype, "gradient of linear_weight")
    for index, name in enumerate(own_words, start=2):
        if name == "linear_bias":
            expect_close(found[index], wanted[index][here], dtype, "gradient of linear_bias")
    if not per_token:  # the same bits everywhere
        losses = [torch.empty_like(got) for _ in range(size)]
        dist.all_gather(losses, got.detach())
        assert all(torch.equal(losses[0], other) for other in losses)


def check_statistics(rank, size, layout, dtype):
    from lmhead.ops import linear_cross_entropy_with_statistics

    import lmhead

    hidden, weight, target, words, _, _ = problem_of({"linear_bias": True, "ignored": True}, torch.float64)
    weight[7] = weight[V - 3]  # two words of one logit: the first counts as correct
    words["linear_bias"][7] = words["linear_bias"][V - 3] = 30.0
    target[2], target[3] = 7, V - 3
    options = {"logit_softcap": 40.0, "label_smoothing": 0.1}
    loss, exact = linear_cross_entropy_with_statistics(hidden, weight, target, **words, **options)
    here, tokens = shards(V, rank, size), slice(None) if layout == "replicated" else shards(N, rank, size)
    got_loss, got = lmhead.vocabulary_parallel_cross_entropy_with_statistics(
        hidden[tokens].to(dtype), weight[here].to(dtype), target[tokens], hidden_layout=layout,
        linear_bias=words["linear_bias"][here].to(dtype), **options,
    )  # fmt: skip
    expect_close(got_loss, loss, dtype, "loss")
    assert exact.correct[2] and not exact.correct[3]
    for name, one, other in zip(exact._fields, got, exact):
        expect_close(one, other[tokens], dtype if name != "correct" else torch.float64, name)


def check_dtensor(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    import lmhead

    mesh = init_device_mesh("cpu", (size,))
    hidden, weight, target, _, _, _ = problem_of({}, torch.float64)
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    wanted = gradients(lmhead.linear_cross_entropy(*leaves, target), 1.0, *leaves)
    for placement in (Replicate(), Shard(0)):
        matrix = distribute_tensor(weight.clone(), mesh, [Shard(0)]).requires_grad_()
        features = distribute_tensor(hidden.clone(), mesh, [placement]).requires_grad_()
        ids = distribute_tensor(target, mesh, [placement])
        loss = lmhead.vocabulary_parallel_cross_entropy(features, matrix, ids)
        found = gradients(loss, 1.0, features, matrix)
        for one, other in zip(found, wanted):
            expect_close(one.full_tensor(), other, torch.float64, f"gradient under {placement}")
    columns = distribute_tensor(weight.clone(), mesh, [Shard(1)])
    with pytest.raises(ValueError, match="sharded over its rows alone"):
        lmhead.vocabulary_parallel_cross_entropy(hidden, columns, target)


def check_retention(rank, size):
    """Of a weight that has one small direction too: there the loss is differentiated through a basis whose rows are spread."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    import lmhead

    hidden, weight, target, words, _, _ = problem_of({"linear_bias": True, "ignored": True}, torch.float64)
    flat = weight.clone()
    flat[:, 0] = flat[:, 1] + 1e-4 * flat[:, 0]
    for matrix, options in ((weight, {}), (weight, {"logit_softcap": 5.0, "logit_scale": 0.5}), (weight + 3, {"center_weight": True}), (flat, {})):
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            whole, features = matrix.to(dtype), hidden.to(dtype)
            wanted = lmhead.GradientRetention(whole, words["linear_bias"].to(dtype), **options)
            shares = wanted.update(features, target)
            here = shards(V, rank, size)
            for layout in ("replicated", "sharded"):
                tokens = slice(None) if layout == "replicated" else shards(N, rank, size)
                got = lmhead.GradientRetention(
                    whole[here], words["linear_bias"][here].to(dtype), group=dist.group.WORLD, hidden_layout=layout, **options
                )
                mine = got.update(features[tokens], target[tokens])
                counted = torch.zeros(N, dtype=torch.bool)
                counted[tokens] = True
                expect_close(mine.to(dtype), shares[counted[target != -100]].to(dtype), dtype, "shares")
                for key, value in wanted.compute().items():
                    assert got.compute()[key] == pytest.approx(value, rel=tolerance, abs=tolerance), f"{key} of {options} in {layout}, {dtype}"
    matrix = distribute_tensor(weight.clone(), init_device_mesh("cpu", (size,)), [Shard(0)])
    got = lmhead.GradientRetention(matrix)
    got.update(hidden, target)
    wanted = lmhead.GradientRetention(weight)
    wanted.update(hidden, target)
    assert got.compute() == pytest.approx(wanted.compute(), rel=1e-9)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(got)


def check_autocast(rank, size):
    import lmhead

    hidden, weight, target, _, _, _ = problem_of({}, torch.float32)
    leaves = [hidden.clone().requires_grad_(), weight[shards(V, rank, size)].clone().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        loss = lmhead.vocabulary_parallel_cross_entropy(*leaves, target)
        whole = lmhead.linear_cross_entropy(hidden, weight, target)
    assert loss.dtype == torch.float32 and abs(loss.item() - whole.item()) < 1e-2
    found = gradients(loss, 1.0, *leaves)
    assert [one.dtype for one in found] == [torch.float32, torch.float32]


def check_refusals(rank, size):
    import lmhead

    hidden, weight, target, _, _, _ = problem_of({}, torch.float32)
    here = weight[shards(V, rank, size)]
    call = lmhead.vocabulary_parallel_cross_entropy
    refused = [
        (lambda: call(hidden[: N - rank], here, target[: N - rank]), "replicated input must have the same tokens"),
        (lambda: call(hidden, here, target + V), "target must be below 101"),
        (lambda: call(hidden.to(torch.float64 if rank else torch.float32), here.to(torch.float64 if rank else torch.float32), target), "same type of input"),
        (lambda: call(hidden, here, target, weight=torch.ones(len(here)) if rank else None), "same class weights"),
        (lambda: call(hidden, here, target, hidden_layout="split"), "'replicated' or 'sharded'"),
        (lambda: call(hidden, here, target, reduction="median"), "reduction must be"),
        (lambda: call(hidden, here, target[:5]), "that goes with input"),
    ]  # fmt: skip
    for attempt, words in refused:
        with pytest.raises(ValueError, match=words):
            attempt()


def child(rank, size, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    checks = {
        f"{name}, {layout}, {str(dtype).removeprefix('torch.')}": functools.partial(check_case, rank, size, options, layout, dtype)
        for name, options in CASES.items()
        for layout in ("replicated", "sharded")
        for dtype in (torch.float64, torch.float32)
        if dtype == torch.float64 or name in ("plain", "all at once")
    }
    for layout in ("replicated", "sharded"):
        for dtype in (torch.float64, torch.float32):
            checks[f"statistics, {layout}, {dtype}"] = functools.partial(check_statistics, rank, size, layout, dtype)
    checks |= {one.__name__: functools.partial(one, rank, size) for one in (check_dtensor, check_retention, check_autocast, check_refusals)}
    failures = {}
    for name, check in checks.items():
        try:
            check()
        except AssertionError as error:  # anything else may have left the others waiting, and ends all
            failures[name] = str(error) or "failed"
    pathlib.Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps((list(checks), failures)))
    dist.destroy_process_group()


@functools.cache
def outcome(size):
    """What every process of `size` found: the checks, and of the failed ones why."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(child, (size, port, folder), nprocs=size)
        return [pickle.loads(pathlib.Path(folder, f"{rank}.pickle").read_bytes()) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_what_one_gives(size):
    for checks, failures in outcome(size):
        assert len(checks) == 2 * (len(CASES) + 2) + 4 + 4
        assert not failures


def test_one_process_needs_no_group():
    import lmhead

    for options in CASES.values():
        hidden, weight, target, words, rows, plain = problem_of(options, torch.float32)
        leaves = [[hidden.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2)]
        got = lmhead.vocabulary_parallel_cross_entropy(*leaves[0], target, **words, **rows, **plain)
        wanted = lmhead.linear_cross_entropy(*leaves[1], target, **words, **rows, **plain)
        expect_close(got.detach(), wanted.detach(), torch.float32, "loss")
        for one, other in zip(gradients(got, 0.7, *leaves[0]), gradients(wanted, 0.7, *leaves[1])):
            expect_close(one, other, torch.float32, "gradient")


def test_derivatives_that_are_not_there_are_errors():
    import lmhead

    hidden, weight, target, _, _, _ = problem_of({}, torch.float64)
    loss = lmhead.vocabulary_parallel_cross_entropy(hidden.requires_grad_(), weight, target)
    with pytest.raises(RuntimeError, match="create_graph must be false"):
        torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda x: lmhead.vocabulary_parallel_cross_entropy(x, weight, target), (hidden.detach(),), (hidden.detach(),))
