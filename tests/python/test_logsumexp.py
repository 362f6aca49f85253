"""lmhead.linear_logsumexp and what is made of it, against plain PyTorch: values, gradients, torch.compile, opcheck, autocast."""


import pytest

torch = pytest.importorskip("torch")
try:
    from lmhead import logsumexp, ops
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)
from kernel_fixtures import gradients  # noqa: E402

F = torch.nn.functional
MAPS = {
    "none": ({}, lambda z: z),
    "softcap": (dict(logit_softcap=4.0, logit_scale=0.7), lambda z: 4 * torch.tanh(0.7 * z / 4)),
    "sigmoid_cap": (dict(sigmoid_cap=(23.0, 5.0, 7.5)), lambda z: 23 * torch.sigmoid((z + 5) / 7.5)),
    "sigsoftmax": (dict(sigsoftmax=True), lambda z: 2 * z - F.softplus(z)),
}


def problem(size=23, rows=301, width=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(11)
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in [(size, width), (rows, width), (rows,)]]
    return [tensor.to(dtype) for tensor in tensors], torch.randint(0, rows, (size, 3), generator=generator)


def same(mine, plain, leaves):
    for ours, theirs in zip(gradients(mine, leaves), gradients(plain, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MAPS)
def test_logsumexp_entropy_and_target_logits(name):
    options, formula = MAPS[name]
    leaves, targets = problem()
    temperature = torch.linspace(0.5, 2, 23, dtype=torch.float64)

    def logits(h, w, b):
        return formula(F.linear(h, w, b)) / temperature[:, None]

    options = dict(options, temperature=temperature)
    same(
        lambda h, w, b: logsumexp.linear_logsumexp(h, w, linear_bias=b, **options),
        lambda h, w, b: logits(h, w, b).logsumexp(-1),
        leaves,
    )
    same(
        lambda h, w, b: logsumexp.linear_entropy(h, w, linear_bias=b, **options),
        lambda h, w, b: torch.special.entr(logits(h, w, b).softmax(-1)).sum(-1),
        leaves,
    )
    same(
        lambda h, w, b: logsumexp.target_logits(h, w, targets, linear_bias=b, **options),
        lambda h, w, b: logits(h, w, b).gather(-1, targets),
        leaves,
    )


def test_the_temperature_has_a_gradient():
    (hidden, weight, bias), _ = problem()
    temperature = torch.linspace(0.5, 2, 23, dtype=torch.float64)
    same(
        lambda h, t: logsumexp.linear_logsumexp(h, weight, linear_bias=bias, temperature=t, logit_softcap=3.0),
        lambda h, t: (3 * torch.tanh(F.linear(h, weight, bias) / 3) / t[:, None]).logsumexp(-1),
        [hidden, temperature],
    )


def test_shapes_of_any_kind_and_one_temperature_for_all():
    (hidden, weight, _), targets = problem(size=24)
    shaped = logsumexp.linear_logsumexp(hidden.view(2, 3, 4, -1), weight, temperature=0.5)
    assert shaped.shape == (2, 3, 4)
    torch.testing.assert_close(shaped.flatten(), (hidden @ weight.T / 0.5).logsumexp(-1))
    several = logsumexp.target_logits(hidden.view(2, 12, -1), weight, targets.view(2, 12, 3))
    assert several.shape == (2, 12, 3)
    with pytest.raises(ValueError, match="temperature must have the shape"):
        logsumexp.linear_logsumexp(hidden, weight, temperature=torch.ones(3))
    with pytest.raises(ValueError, match="target must have the shape"):
        logsumexp.target_logits(hidden, weight, targets[:5])
    with pytest.raises(RuntimeError, match=r"\[target_logits\] targets must lie in \[0, 301\)"):
        logsumexp.target_logits(hidden, weight, targets + 301)


def test_token_log_probabilities_are_those_of_log_softmax():
    leaves, targets = problem()
    target = targets[:, 0].clone()
    target[4] = -100
    counted = target >= 0
    same(
        lambda h, w, b: logsumexp.linear_token_log_probabilities(h, w, target, linear_bias=b, temperature=0.7),
        lambda h, w, b: (F.linear(h, w, b) / 0.7).log_softmax(-1).gather(-1, target.clamp_min(0)[:, None])[:, 0] * counted,
        leaves,
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_several_targets_a_token(reduction, weighted):
    leaves, targets = problem()
    targets = targets.clone()
    targets[0, 1:], targets[5] = -100, -100
    counts = targets >= 0
    shares = torch.linspace(0, 1, 69, dtype=torch.float64).view(23, 3) if weighted else None

    def plain(h, w, b):
        log_p = F.linear(h, w, b).log_softmax(-1).gather(-1, targets.clamp_min(0))
        share = counts * shares if weighted else counts / counts.sum(-1, keepdim=True).clamp_min(1).double()
        loss = -(share * log_p).sum(-1)
        return loss if reduction == "none" else loss.sum() / (22 if reduction == "mean" else 1)

    same(
        lambda h, w, b: logsumexp.linear_multi_target_cross_entropy(
            h, w, targets, target_weight=shares, linear_bias=b, reduction=reduction
        ),
        plain,
        leaves,
    )


@pytest.mark.parametrize("name", MAPS)
def test_passes_opcheck(name):
    (hidden, weight, bias), targets = problem(dtype=torch.float32)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in MAPS[name][0].items()}
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    temperature = torch.linspace(0.5, 2, 23)
    arguments = {"bias": bias, "temperature": temperature, **options}
    for operation in (torch.ops.lmhead.linear_logsumexp, torch.ops.lmhead.linear_logsumexp_and_entropy):
        torch.library.opcheck(operation.default, (hidden, weight), arguments)
    torch.library.opcheck(torch.ops.lmhead.target_logits.default, (hidden, weight, targets), arguments)


def test_gives_the_same_under_torch_compile_without_holding_logits():
    (hidden, weight, bias), targets = problem(dtype=torch.float32)

    def loss(h, w, b):
        normaliser = logsumexp.linear_logsumexp(h.tanh(), w, linear_bias=b)
        entropy = logsumexp.linear_entropy(h.tanh(), w, linear_bias=b)
        return normaliser - logsumexp.target_logits(h.tanh(), w, targets[:, 0], linear_bias=b) + 0.1 * entropy

    torch._dynamo.reset()
    compiled = gradients(torch.compile(loss, backend="aot_eager", fullgraph=True), (hidden, weight, bias))
    for mine, theirs in zip(compiled, gradients(loss, (hidden, weight, bias))):
        torch.testing.assert_close(mine, theirs)


def test_autocast_casts_features_and_weight():
    (hidden, weight, _), targets = problem(dtype=torch.float32)
    leaf = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        normaliser = logsumexp.linear_logsumexp(hidden, leaf)
        chosen = logsumexp.target_logits(hidden, leaf, targets[:, 0])
        whole = ops.linear_cross_entropy(hidden, leaf, targets[:, 0], reduction="none")
        entropy = logsumexp.linear_entropy(hidden, leaf)
    assert normaliser.dtype == chosen.dtype == entropy.dtype == torch.float32
    (normaliser - chosen + entropy).sum().backward()
    assert leaf.grad.dtype == torch.float32 and leaf.grad.isfinite().all()
    torch.testing.assert_close(normaliser - chosen, whole, rtol=2e-2, atol=2e-2)


def test_meta_tensors_give_shapes():
    (hidden, weight, _), targets = problem()
    hidden, weight, targets = hidden.to("meta"), weight.to("meta"), targets.to("meta")
    assert logsumexp.linear_logsumexp(hidden, weight).shape == (23,)
    assert logsumexp.linear_entropy(hidden, weight).shape == (23,)
    assert logsumexp.target_logits(hidden, weight, targets).shape == (23, 3)


def test_no_logits_are_held():
    """A vocabulary whose logits would take 2 GB."""
    import resource

    hidden, weight = torch.randn(4096, 8, requires_grad=True), torch.randn(131072, 8, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logsumexp.linear_logsumexp(hidden, weight).sum().backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
