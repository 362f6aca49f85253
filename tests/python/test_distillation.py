"""lmhead.linear_distillation against plain PyTorch: values, gradients, torch.compile, opcheck, autocast."""


import pytest

torch = pytest.importorskip("torch")
try:
    from lmhead.distillation import linear_distillation

    from lmhead import ops  # noqa: F401 (loads the library)
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)
from kernel_fixtures import gradients  # noqa: E402

F = torch.nn.functional


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(12)
    shapes = [(2, 9, 6), (53, 6), (53,), (2, 9, 11), (53, 11), (53,)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def plain(h, w, b, th, tw, tb, divergence, beta, temperature):
    log_p = (F.linear(h, w, b) / temperature).log_softmax(-1)
    log_q = (F.linear(th, tw, tb) / temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    if divergence == "forward_kl":
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    if divergence == "reverse_kl":
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    log_m = (beta * q + (1 - beta) * p).log()
    return beta * (q * (log_q - log_m)).sum(-1) + (1 - beta) * (p * (log_p - log_m)).sum(-1)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_is_the_divergence(divergence, reduction):
    h, w, b, th, tw, tb = problem()
    settings = dict(divergence=divergence, beta=0.3, temperature=1.7)
    reduce = {"none": lambda x: x, "mean": torch.mean, "sum": torch.sum}[reduction]

    def ours(h, w, b):
        return linear_distillation(h, w, th, tw, linear_bias=b, teacher_bias=tb, reduction=reduction, **settings)

    got, want = gradients(ours, [h, w, b]), gradients(lambda h, w, b: reduce(plain(h, w, b, th, tw, tb, **settings)), [h, w, b])
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_token_weights_multiply_losses():
    h, w, _, th, tw, _ = problem()
    weights = torch.rand(2, 9, dtype=torch.float64)
    each = linear_distillation(h, w, th, tw, reduction="none")
    torch.testing.assert_close(linear_distillation(h, w, th, tw, token_weight=weights), (weights * each).mean())


def test_gives_the_same_under_torch_compile_and_says_its_shapes():
    h, w, b, th, tw, tb = problem(torch.float32)

    def loss(h, w, b):
        return linear_distillation(h, w, th, tw, linear_bias=b, teacher_bias=tb, divergence="jsd")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(gradients(compiled, [h, w, b]), gradients(loss, [h, w, b]), strict=True):
        torch.testing.assert_close(mine, theirs)
    flat = [h.reshape(18, 6).requires_grad_(), w.requires_grad_(), th.reshape(18, 11), tw]
    torch.library.opcheck(torch.ops.lmhead.linear_distillation.default, flat, dict(bias=b, reduction="none"))


def test_derivatives_of_every_kind():
    h, w, _, th, tw, _ = problem()
    h = h[0, :3].clone()
    torch.autograd.gradgradcheck(lambda h, w: linear_distillation(h, w, th[0, :3], tw), [h.requires_grad_(), w.requires_grad_()])

    def loss(h):
        return linear_distillation(h, w.detach(), th[0, :3], tw, divergence="reverse_kl")

    direction = torch.randn_like(h)
    tangent = torch.func.jvp(loss, (h.detach(),), (direction,))[1]
    torch.testing.assert_close(tangent, (torch.func.grad(loss)(h.detach()) * direction).sum())


def test_autocast_casts_both_heads():
    h, w, _, th, tw, _ = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear_distillation(h, w, th, tw)
    narrow = [tensor.to(torch.bfloat16) for tensor in (h, w, th, tw)]
    torch.testing.assert_close(got, linear_distillation(*narrow))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(divergence="kl"), "divergence must be 'forward_kl', 'reverse_kl' or 'jsd', got 'kl'"),
        (dict(temperature=0.0), "temperature must be positive"),
        (dict(divergence="jsd", beta=1.5), "beta must lie between 0 and 1"),
        (dict(teacher_weight=torch.zeros(52, 11, dtype=torch.float64)), "teacher_weight 53"),
        (dict(teacher_input=torch.zeros(3, 9, 11, dtype=torch.float64)), "teacher_input must be"),
    ],
)
def test_names_what_does_not_fit(change, words):
    h, w, _, th, tw, _ = problem()
    arguments = dict(input=h, linear_weight=w, teacher_input=th, teacher_weight=tw) | change
    with pytest.raises((ValueError, RuntimeError), match=words):
        linear_distillation(**arguments)


def test_is_what_liger_kernel_computes():
    chunked_loss = pytest.importorskip("liger_kernel.chunked_loss")
    h, w, b, th, tw, tb = [tensor.flatten(0, -2) if tensor.dim() == 3 else tensor for tensor in problem()]
    labels = torch.zeros(len(h), dtype=torch.long)
    for beta, name in [(0.0, "forward_kl"), (1.0, "reverse_kl"), (0.3, "jsd")]:
        peer = chunked_loss.LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, temperature=2.0, compiled=False
        )

        def ours(h, w, b, name=name, beta=beta):
            return linear_distillation(h, w, th, tw, linear_bias=b, teacher_bias=tb, divergence=name, beta=beta, temperature=2.0)

        def theirs(h, w, b, peer=peer):
            return peer(h, w, th, tw, labels, b, tb)

        for mine, other in zip(gradients(ours, [h, w, b]), gradients(theirs, [h, w, b]), strict=True):
            torch.testing.assert_close(mine, other.to(mine.dtype), rtol=1e-5, atol=1e-6)
