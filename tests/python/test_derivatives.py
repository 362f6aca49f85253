"""Derivatives of every kind of every operation that lmhead registers, against plain PyTorch: right, never zero."""


import pytest

torch = pytest.importorskip("torch")
try:
    from lmhead import logsumexp, ops
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)

F = torch.nn.functional


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


HIDDEN, WEIGHT = normal(7, 5), normal(11, 5)
TARGET = torch.tensor([0, 3, 10, -100, 2, 2, 9])


def plain_loss(hidden, weight, **options):
    return F.cross_entropy(F.linear(hidden, weight), TARGET, **options)


def plain_logits(hidden, weight):
    return F.linear(hidden, weight)


OPERATIONS = {
    "fast": (lambda h, w: ops.linear_cross_entropy(h, w, TARGET, mode="fast"), plain_loss),
    "small": (lambda h, w: ops.linear_cross_entropy(h, w, TARGET, mode="small"), plain_loss),
    "none": (
        lambda h, w: ops.linear_cross_entropy(h, w, TARGET, reduction="none").square().sum(),
        lambda h, w: plain_loss(h, w, reduction="none").square().sum(),
    ),
    "statistics": (lambda h, w: ops.linear_cross_entropy_with_statistics(h, w, TARGET)[0], plain_loss),
    "filtered": (lambda h, w: ops.filtered_linear_cross_entropy(h, w, TARGET, 0.0)[0], plain_loss),
    "logsumexp": (
        lambda h, w: logsumexp.linear_logsumexp(h, w).square().sum(),
        lambda h, w: plain_logits(h, w).logsumexp(-1).square().sum(),
    ),
    "entropy": (
        lambda h, w: logsumexp.linear_entropy(h, w).square().sum(),
        lambda h, w: torch.distributions.Categorical(logits=plain_logits(h, w)).entropy().square().sum(),
    ),
    "target logits": (
        lambda h, w: logsumexp.target_logits(h, w, TARGET.clamp_min(0)).square().sum(),
        lambda h, w: plain_logits(h, w).gather(-1, TARGET.clamp_min(0)[:, None]).square().sum(),
    ),
}


@pytest.fixture(params=OPERATIONS)
def pair(request):
    return OPERATIONS[request.param]


def same(pair, derive):
    mine, theirs = (derive(function) for function in pair)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
    flat = theirs if isinstance(theirs, torch.Tensor) else torch.cat([t.flatten() for t in theirs])
    assert flat.abs().sum() > 0


@pytest.mark.parametrize("which", [0, 1])
def test_forward_mode(pair, which):
    point, direction = (HIDDEN, WEIGHT)[which], (normal(7, 5) + 1, normal(11, 5) + 1)[which]

    def of_one(function):
        return (lambda h: function(h, WEIGHT)) if which == 0 else (lambda w: function(HIDDEN, w))

    same(pair, lambda f: torch.func.jvp(of_one(f), (point,), (direction,))[1])
    same(pair, lambda f: torch.autograd.functional.jvp(of_one(f), (point,), (direction,))[1])
    same(pair, lambda f: torch.func.jacfwd(of_one(f))(point))


def test_forward_mode_outside_of_function_transforms(pair):
    def derive(function):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(HIDDEN.clone().requires_grad_(), HIDDEN.cos())
            return torch.autograd.forward_ad.unpack_dual(function(dual, WEIGHT)).tangent.detach()

    same(pair, derive)


def test_a_tangent_of_the_upstream_alone(pair):
    """The features carry none, so that the graph is the kernel's own, and its backward pass meets one."""

    def derive(function):
        leaf = HIDDEN.clone().requires_grad_()
        loss = function(leaf, WEIGHT)
        with torch.autograd.forward_ad.dual_level():
            upstream = torch.autograd.forward_ad.make_dual(torch.tensor(2.0).double(), torch.tensor(3.0).double())
            (gradient,) = torch.autograd.grad(loss, leaf, upstream)
            return torch.autograd.forward_ad.unpack_dual(gradient).tangent.clone()

    same(pair, derive)


def test_function_transforms(pair):
    def of_hidden(function):
        return lambda h: function(h, WEIGHT)

    same(pair, lambda f: torch.func.grad(of_hidden(f))(HIDDEN))
    same(pair, lambda f: torch.func.grad(f, argnums=(0, 1))(HIDDEN, WEIGHT))
    same(pair, lambda f: torch.func.hessian(of_hidden(f))(HIDDEN))
    same(pair, lambda f: torch.func.jacrev(torch.func.grad(of_hidden(f)))(HIDDEN))
    several = torch.stack([HIDDEN, 2 * HIDDEN, HIDDEN.sin()])
    same(pair, lambda f: torch.func.vmap(of_hidden(f))(several))
    same(pair, lambda f: torch.func.vmap(torch.func.grad(of_hidden(f)))(several))
    same(pair, lambda f: torch.func.grad(lambda h: torch.func.vmap(of_hidden(f))(h).square().sum())(several))


def test_gradient_penalties_count_every_path(pair):
    def derive(function):
        hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
        factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        loss = function(hidden.tanh(), weight)
        gradients = torch.autograd.grad(loss * factor * loss, (hidden, weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), (hidden, weight, factor))

    same(pair, derive)


def test_hessians_of_autograd(pair):
    same(pair, lambda f: torch.autograd.functional.hessian(lambda h: f(h, WEIGHT), HIDDEN))
    same(pair, lambda f: torch.autograd.functional.hessian(lambda h: f(h, WEIGHT), HIDDEN, vectorize=True))
    same(pair, lambda f: torch.autograd.functional.hvp(lambda h: f(h, WEIGHT), HIDDEN, HIDDEN.cos())[1])


def test_third_derivatives(pair):
    def derive(function):
        leaf = HIDDEN.clone().requires_grad_()
        value = function(leaf, WEIGHT)
        for _ in range(2):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = gradient.pow(3).sum()
        return torch.autograd.grad(value, leaf)[0]

    same(pair, derive)


def test_gradients_already_handed_out_never_change():
    leaf = HIDDEN.clone().requires_grad_()
    loss = ops.linear_cross_entropy(leaf, WEIGHT, TARGET)
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    norm = gradient.norm().item()
    (loss * 1024).backward()
    assert gradient.norm().item() == norm


def test_private_operations_say_that_they_have_no_derivative():
    leaf = HIDDEN.clone().requires_grad_()
    sums = torch.ops.lmhead._linear_logsumexp_forward(leaf, WEIGHT, None, None, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], False)
    with pytest.raises(RuntimeError, match="_linear_logsumexp_forward"):
        sums.sum().backward()
