"""lmhead.ops against plain PyTorch: values, gradients, torch.compile, opcheck, autocast."""

import inspect
import itertools
import pathlib
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "python"))
torch = pytest.importorskip("torch")
try:
    from lmhead import ops
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)

F = torch.nn.functional


def gradients(function, *leaves):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    loss = function(*leaves)
    upstream = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    (loss * upstream).sum().backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def problem(size=37, vocab_size=301, width=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(size, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab_size, generator=generator, dtype=torch.float64)
    target = torch.randint(0, vocab_size, (size,), generator=generator)
    target[::5] = -100
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), target


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mode", ["auto", "fast", "small"])
def test_agrees_with_cross_entropy_where_both_have_the_option(reduction, mode):
    hidden, weight, bias, target = problem()
    class_weight = torch.linspace(0.5, 1.5, weight.shape[0], dtype=torch.float64)
    for label_smoothing, classes in itertools.product([0.0, 0.1], [None, class_weight]):
        options = dict(weight=classes, reduction=reduction, label_smoothing=label_smoothing)
        ours = gradients(
            lambda h, w, b: ops.linear_cross_entropy(h, w, target, linear_bias=b, mode=mode, **options), hidden, weight, bias
        )
        plain = gradients(lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, **options), hidden, weight, bias)
        for mine, theirs in zip(ours, plain):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"mode": "small"}, {"reduction": "none"}, {"label_smoothing": 0.1}])
def test_statistics_are_those_of_plain_cross_entropy(options):
    hidden, weight, bias, target = problem()
    shape = (1, *target.shape)

    def with_statistics(h, w, b):
        nonlocal statistics
        loss, statistics = ops.linear_cross_entropy_with_statistics(
            h.reshape(*shape, -1), w, target.reshape(shape), linear_bias=b, **options
        )
        return loss.squeeze(0) if loss.dim() else loss

    statistics = None
    mine = gradients(with_statistics, hidden, weight, bias)
    theirs = gradients(lambda h, w, b: ops.linear_cross_entropy(h, w, target, linear_bias=b, **options), hidden, weight, bias)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs))
    logits = F.linear(hidden, weight, bias)
    p, kept = logits.softmax(-1), target != -100
    difference = p - F.one_hot(target.clamp_min(0), weight.shape[0])
    expected = {
        "log_probability": p.log().gather(-1, target.clamp_min(0)[:, None])[:, 0],
        "logsumexp": logits.logsumexp(-1),
        "entropy": torch.special.entr(p).sum(-1),
        "correct": logits.argmax(-1) == target,
        "logit_gradient_square": difference.square().sum(-1),
        "hidden_gradient": difference @ weight,
    }
    for name, values in expected.items():
        found = getattr(statistics, name)
        assert found.shape[:2] == shape and not found.requires_grad
        torch.testing.assert_close(found[0][kept], values[kept], rtol=1e-9, atol=1e-12)
        assert not found[0][~kept].any()


def test_takes_batches_of_any_shape_and_returns_losses_of_the_targets_shape():
    hidden, weight, _, target = problem(size=24)
    shaped = ops.linear_cross_entropy(hidden.view(2, 12, -1), weight, target.view(2, 12), reduction="none")
    flat = ops.linear_cross_entropy(hidden, weight, target, reduction="none")
    assert shaped.shape == (2, 12)
    assert torch.equal(shaped.flatten(), flat)


def test_filter_reports_what_it_skips():
    hidden, weight, _, target = problem(vocab_size=5000)
    nothing = ops.filtered_linear_cross_entropy(hidden, weight, target, 0.0)
    exact = ops.linear_cross_entropy(hidden, weight, target)
    torch.testing.assert_close(nothing[0], exact)
    leaf = hidden.clone().requires_grad_()
    loss, report = ops.filtered_linear_cross_entropy(leaf, weight, target, 1.0)
    loss.backward()
    assert report[1] == report[0] > 0 and report[2] > 0  # no p exceeds one, so every tile is left out
    (expected,) = torch.autograd.grad(ops.linear_cross_entropy(whole := hidden.clone().requires_grad_(), weight, target), whole)
    error = torch.linalg.matrix_norm(leaf.grad - expected)
    assert 0 < error <= report[2] * torch.linalg.matrix_norm(weight, 2)
    assert error < 0.75 * torch.linalg.matrix_norm(expected)  # much of it stands all the same


def test_module_holds_parameters_and_learns():
    torch.manual_seed(0)
    head = ops.LinearCrossEntropyLoss(8, 20, bias=True, label_smoothing=0.05)
    features, target = torch.randn(64, 8), torch.randint(0, 20, (64,))
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = head(features, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert set(dict(head.named_parameters())) == {"linear.weight", "linear.bias"}
    assert losses[-1] < 0.8 * losses[0]


def test_has_the_argument_names_and_defaults_of_torch():
    def keywords(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: (p.kind, p.default) for p in parameters if p.name not in ("options", "out_features")}

    for ours, torchs in [
        (ops.linear_cross_entropy, F.linear_cross_entropy),
        (ops.LinearCrossEntropyLoss.__init__, torch.nn.LinearCrossEntropyLoss.__init__),
    ]:
        assert keywords(torchs).items() <= keywords(ours).items()
    assert keywords(F.cross_entropy).keys() - {"size_average", "reduce"} <= keywords(ops.linear_cross_entropy).keys()


def test_module_exchanges_state_with_that_of_torch_and_agrees_with_it():
    hidden, _, _, target = problem(size=30, vocab_size=50)
    options = dict(bias=True, dtype=torch.float64, weight=torch.linspace(0.5, 1.5, 50, dtype=torch.float64), label_smoothing=0.1)
    ours, torchs = ops.LinearCrossEntropyLoss(12, 50, **options), torch.nn.LinearCrossEntropyLoss(12, 50, **options)
    ours.load_state_dict(torchs.state_dict())
    torch.testing.assert_close(ours(hidden, target), torchs(hidden, target))
    # One feature vector, as torch takes it.
    torch.testing.assert_close(ours(hidden[1], target[1]), torchs(hidden[1], target[1]))


def test_a_batch_of_another_shape_with_as_many_tokens_is_refused():
    hidden, weight, _, target = problem(size=24)
    with pytest.raises(ValueError, match=r"target must have the shape \(2, 12\).*got \(12, 2\)"):
        ops.linear_cross_entropy(hidden.view(2, 12, -1), weight, target.view(12, 2))
    with pytest.raises(ValueError, match="token_weight must have the shape"):
        ops.linear_cross_entropy(hidden, weight, target, token_weight=torch.ones(24, 1))
    with pytest.raises(RuntimeError, match="targets must be int64"):
        ops.linear_cross_entropy(hidden, weight, target.double())


@pytest.mark.parametrize("options", [{}, {"mode": "small"}, {"reduction": "none"}, {"z_loss": 0.01, "logit_softcap": 5.0}])
def test_passes_opcheck(options):
    hidden, weight, bias, target = problem(dtype=torch.float32)
    arguments = (hidden.requires_grad_(), weight.requires_grad_(), target)
    for operation in (torch.ops.lmhead.linear_cross_entropy, torch.ops.lmhead.linear_cross_entropy_with_statistics):
        torch.library.opcheck(operation.default, arguments, {"bias": bias.requires_grad_(), **options})


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gives_the_same_under_torch_compile(reduction):
    hidden, weight, _, target = problem(dtype=torch.float32)

    def loss(h, w):
        return ops.linear_cross_entropy(torch.tanh(h), w, target, reduction=reduction)

    torch._dynamo.reset()
    compiled = gradients(torch.compile(loss, backend="aot_eager", fullgraph=True), hidden, weight)
    for mine, theirs in zip(compiled, gradients(loss, hidden, weight)):
        torch.testing.assert_close(mine, theirs)


@pytest.fixture(scope="module")
def inductor():
    """Skips where the default backend of torch.compile cannot build even the smallest kernel."""
    torch._dynamo.reset()
    try:
        torch.compile(torch.sin)(torch.ones(3))
    except Exception as error:  # whatever a missing or old C++ compiler makes of it
        pytest.skip(f"inductor cannot run: {type(error).__name__}")


@pytest.mark.parametrize("options", [{"mode": "fast"}, {"mode": "small"}, {"reduction": "none", "logit_softcap": 5.0}])
def test_compiles_by_inductor_without_a_graph_break(inductor, options):
    hidden, weight, bias, target = problem(dtype=torch.float32)

    def loss(h, w, b):
        return ops.linear_cross_entropy(F.layer_norm(h, h.shape[-1:]), w, target, linear_bias=b, **options).square()

    torch._dynamo.reset()
    compiled = gradients(torch.compile(loss, fullgraph=True), hidden, weight, bias)
    for mine, theirs in zip(compiled, gradients(loss, hidden, weight, bias)):
        torch.testing.assert_close(mine, theirs)


def test_autocast_takes_float32_parameters():
    hidden, weight, _, target = problem(dtype=torch.float32)
    leaf = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ops.linear_cross_entropy(hidden, leaf, target)
    loss.backward()
    assert loss.dtype == torch.float32 and leaf.grad.dtype == torch.float32
    torch.testing.assert_close(loss, ops.linear_cross_entropy(hidden, weight, target), rtol=2e-2, atol=0)


def test_autocast_takes_every_operation():
    hidden, weight, _, target = problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, report = ops.filtered_linear_cross_entropy(hidden, weight, target, 0.0)
        whole = ops.linear_cross_entropy(hidden, weight, target)
        with_statistics, _ = ops.linear_cross_entropy_with_statistics(hidden, weight, target)
    assert loss.item() == whole.item() == with_statistics.item()
    assert report.shape == (3,)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_class_probabilities_and_temperatures(reduction):
    hidden, weight, bias, _ = problem()
    probabilities = torch.softmax(hidden @ weight.roll(1, 0).T, -1)
    temperature = torch.linspace(0.5, 2, len(hidden), dtype=torch.float64)
    classes = torch.linspace(0.5, 1.5, len(weight), dtype=torch.float64)
    options = dict(reduction=reduction, label_smoothing=0.1, weight=classes)

    def mine(h, w, b):
        return ops.linear_cross_entropy(
            h.view(1, *h.shape), w, probabilities[None], linear_bias=b, temperature=temperature[None], **options
        ).squeeze(0)

    def plain(h, w, b):
        return F.cross_entropy(F.linear(h, w, b) / temperature[:, None], probabilities, **options)

    for ours, theirs in zip(gradients(mine, hidden, weight, bias), gradients(plain, hidden, weight, bias)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


MAPS = {
    "sigmoid_cap": (dict(sigmoid_cap=(23.0, 5.0, 7.5)), lambda z: 23 * torch.sigmoid((z + 5) / 7.5)),
    "sigsoftmax": (dict(sigsoftmax=True), lambda z: 2 * z - F.softplus(z)),
    "softcap": (dict(logit_softcap=4.0, logit_scale=0.7), lambda z: 4 * torch.tanh(0.7 * z / 4)),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_the_logits(name):
    options, formula = MAPS[name]
    hidden, weight, bias, target = problem()
    mine = gradients(lambda h, w, b: ops.linear_cross_entropy(h, w, target, linear_bias=b, **options), hidden, weight, bias)
    plain = gradients(lambda h, w, b: F.cross_entropy(formula(F.linear(h, w, b)), target), hidden, weight, bias)
    for ours, theirs in zip(mine, plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError, match="only one of"):
        ops.linear_cross_entropy(hidden, weight, target, **{**options, "logit_softcap": 2.0, "sigsoftmax": True})


def test_meta_tensors_give_shapes():
    hidden, weight, _, target = (tensor.to("meta") for tensor in problem())
    assert ops.linear_cross_entropy(hidden, weight, target).shape == ()
    assert ops.linear_cross_entropy(hidden, weight, target, reduction="none").shape == (37,)


def test_errors_name_the_operation():
    hidden, weight, _, target = problem()
    with pytest.raises(RuntimeError, match=r"\[linear_cross_entropy\] reduction must be"):
        ops.linear_cross_entropy(hidden, weight, target, reduction="average")
    with pytest.raises(RuntimeError, match=r"\[linear_cross_entropy\] weight must be \[V, 12\]"):
        ops.linear_cross_entropy(hidden, weight[:, :5], target)
    with pytest.raises(RuntimeError, match=r"\[linear_cross_entropy\] targets must be below 301"):
        ops.linear_cross_entropy(hidden, weight, target + 301)


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads what the process holds from /proc")
def test_what_waits_between_steps_is_given_back_by_request():
    def resident():
        return int(next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) << 10

    hidden, weight = torch.randn(256, 64), torch.randn(65_536, 64, requires_grad=True)
    ops.linear_cross_entropy(hidden, weight, torch.arange(256)).backward()
    weight.grad = None  # its 16 MiB lay in a workspace
    before = resident()
    ops.empty_cache()
    assert before - resident() >= weight.nbytes
    ops.empty_cache()  # nothing waits
