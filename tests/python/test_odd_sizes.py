"""The smallest sizes and the wildest numbers: every function and `lmhead measure` gives the right value or one clear line."""

import json
import math

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
try:
    from lmhead.ops import linear_cross_entropy_with_statistics

    from lmhead import GradientRetention, linear_cross_entropy
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)
from measure_fixtures import command  # noqa: E402, F401

NAN, INF = float("nan"), float("inf")


def problem(tokens=4, vocab=5, width=3, targets=None, weight=None, hidden=None):
    torch.manual_seed(0)
    drawn = torch.randn(tokens, width), torch.randn(vocab, width), torch.randint(max(vocab, 1), (tokens,))
    return {"hidden": drawn[0] if hidden is None else torch.full((tokens, width), hidden),
            "weight": drawn[1] if weight is None else torch.full((vocab, width), weight),
            "targets": drawn[2] if targets is None else torch.full((tokens,), targets)}


CASES = {
    "no tokens": dict(tokens=0),
    "one token": dict(tokens=1),
    "one word": dict(vocab=1),
    "two words": dict(vocab=2),
    "one dimension": dict(width=1),
    "no dimension": dict(width=0),
    "one of each": dict(tokens=1, vocab=1, width=1),
    "all ignored": dict(targets=-100),
    "no weight": dict(weight=0.0),
    "no features": dict(hidden=0.0),
    "infinite weight": dict(weight=INF),
    "weight is no number": dict(weight=NAN),
    "features are no numbers": dict(hidden=NAN),
    "infinite features": dict(hidden=INF),
    "huge features": dict(hidden=1e38),  # losses beyond float32
}


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mode", ["fast", "small"])
@pytest.mark.parametrize("case", CASES)
def test_cross_entropy_is_that_of_the_plain_composition(case, mode, reduction):
    if mode == "fast" and reduction == "none":
        pytest.skip("there is no such way")
    given = problem(**CASES[case])
    results = []
    for fused in (True, False):
        kind = torch.float32 if fused else torch.float64
        hidden, weight = (given[name].to(kind).clone().requires_grad_() for name in ("hidden", "weight"))
        if fused:
            loss = linear_cross_entropy(hidden, weight, given["targets"], reduction=reduction, mode=mode)
        else:
            loss = torch.nn.functional.cross_entropy(hidden @ weight.T, given["targets"], reduction=reduction)
        loss.sum().backward()
        results.append([tensor.float() for tensor in (loss.detach(), hidden.grad, weight.grad)])
    for got, expected in zip(*results, strict=True):
        if all(tensor.isfinite().all() for tensor in given.values()):
            same(got, expected)
        else:  # which entries are NaN is nobody's promise, but some are
            assert not got.isfinite().all() or expected.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_the_softmax(case):
    given = problem(**CASES[case])
    hidden, weight, targets = given["hidden"], given["weight"], given["targets"]
    _, statistics = linear_cross_entropy_with_statistics(hidden, weight, targets)
    logits = (hidden @ weight.T).double()
    log_p = logits.log_softmax(1)
    counted = targets != -100
    if "huge" not in case:
        expected = log_p.gather(1, targets.clamp_min(0)[:, None])[:, 0] * counted
        same(statistics.log_probability, expected.float() if counted.any() else torch.zeros(len(targets)))
    rows = counted & logits.isfinite().all(1)
    p = log_p.exp()[rows]
    if "huge" not in case:
        same(statistics.entropy[rows], -(p * log_p[rows]).sum(1).float())
    assert torch.equal(statistics.correct[rows], logits.argmax(1)[rows] == targets[rows])
    p[torch.arange(len(p)), targets[rows]] -= 1
    same(statistics.logit_gradient_square[rows], p.square().sum(1).float())
    same(statistics.hidden_gradient[rows], p.float() @ weight if weight.isfinite().all() else statistics.hidden_gradient[rows])


RETENTION_ERRORS = {
    "no tokens": "at least one token with a target must have been seen",
    "all ignored": "at least one token with a target must have been seen",
    "no dimension": "weight must be a floating .* that is not empty",
    "infinite weight": "weight must be finite",
    "weight is no number": "weight must be finite",
    "features are no numbers": "must give finite logit gradients",
    "infinite features": "must give finite logit gradients",
}


@pytest.mark.parametrize("case", CASES)
def test_retention_is_right_or_says_why_not(case):
    given = problem(**CASES[case])
    hidden, weight, targets = given["hidden"], given["weight"], given["targets"]

    def figures():
        retention = GradientRetention(weight)
        retention.update(hidden, targets)
        return retention.compute()

    if case in RETENTION_ERRORS:
        with pytest.raises(RuntimeError, match=r"^\[[a-z_]+\] .*" + RETENTION_ERRORS[case]):
            figures()
        return
    p = (hidden.double() @ weight.double().T).softmax(1)
    p[torch.arange(len(p)), targets] -= 1
    left, values, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    basis = left[:, values > 1e-9]
    kept, total = (p @ basis).square().sum(), p.square().sum()
    got = figures()
    assert got["tokens"] == len(targets) and got["head_rank"] == basis.shape[1]
    if total == 0:  # the only word is never wrong
        assert math.isnan(got["retained_energy"]) and math.isnan(got["destroyed_ratio"])
    else:
        assert got["retained_energy"] == pytest.approx(float(kept / total), abs=1e-5)


MEASURE_ERRORS = {
    "no tokens": "hidden must be floating numbers [*, 3], got F32 [0, 3]",
    "all ignored": "targets must hold an id, got nothing but -100",
    "no dimension": "weight must be floating numbers [*, *], got F32 [5, 0]",
    "infinite weight": "weight must be finite",
    "weight is no number": "weight must be finite",
    "features are no numbers": "hidden must be finite",
    "infinite features": "hidden must be finite",
}


@pytest.mark.parametrize("case", CASES)
def test_measure_gives_every_figure_or_says_why_not(command, tmp_path, case):
    file = tmp_path / "features.safetensors"
    safetensors_torch.save_file(problem(**CASES[case]), file)
    arguments = ("measure", file, "--json", tmp_path / "out.json")
    if case in MEASURE_ERRORS:
        done = command(*arguments, expect=2)
        assert len(done.stderr.splitlines()) == 1 and MEASURE_ERRORS[case] in done.stderr
        return
    command(*arguments)
    model = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(name))["models"][0]
    retained = model["gradient_retention"]["retained_energy"]
    assert (retained is None) == (model["vocab_size"] == 1)
    assert retained is None or 0 <= retained <= 1
    assert (model["quality"]["loss"] is None) == (case == "huge features")
