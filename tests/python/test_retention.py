"""lmhead.GradientRetention and lmhead.measure against float64 NumPy."""

import numpy
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
try:
    import lmhead
    from lmhead import GradientRetention, measure
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)


def energies(hidden, weight, targets, softcap=0.0):
    """Retained and total squared norm over tokens, by an explicit orthonormal basis in float64."""
    hidden, weight = (t.detach().double().numpy() for t in (hidden, weight))
    raw = hidden @ weight.T
    logits = softcap * numpy.tanh(raw / softcap) if softcap else raw
    p = numpy.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[numpy.arange(len(p)), targets.numpy()] -= 1
    if softcap:
        p *= 1 - (logits / softcap) ** 2
    basis, _ = numpy.linalg.qr(weight)
    return ((p @ basis) ** 2).sum(1), (p**2).sum(1)


def test_batches_add_up_to_the_float64_figures():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(50, 12), torch.randn(97, 12), torch.randint(97, (50,))
    retention = GradientRetention(weight)
    shares = torch.cat([retention.update(hidden[:20], targets[:20]), retention.update(hidden[20:], targets[20:])])
    kept, total = energies(hidden, weight, targets)
    assert numpy.abs(shares.numpy() - kept / total).max() < 1e-5
    figures = retention.compute()
    assert figures["tokens"] == 50 and figures["head_rank"] == 12
    assert figures["retained_energy"] == pytest.approx(kept.sum() / total.sum(), abs=1e-6)
    assert figures["destroyed_ratio"] == pytest.approx((1 - kept.sum() / total.sum()) ** 0.5, abs=1e-6)
    assert figures["null_destroyed_ratio"] == pytest.approx((1 - 12 / 97) ** 0.5)
    retention.reset()
    with pytest.raises(RuntimeError, match="gradient_retention"):
        retention.compute()


def test_wrong_targets_are_refused_by_row():
    retention = GradientRetention(torch.randn(8, 4))
    with pytest.raises(RuntimeError, match="got 8 in row 1"):
        retention.update(torch.randn(3, 4), torch.tensor([0, 8, 1]))


def tiny(kind):
    torch.manual_seed(1)
    common = dict(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, tie_word_embeddings=False)), 0.0
    config = transformers.Gemma2Config(**common, head_dim=8, final_logit_softcapping=2.0)
    return transformers.Gemma2ForCausalLM(config), 2.0


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_model_of_transformers_is_measured_as_by_hand(kind):
    model, softcap = tiny(kind)
    model.train()
    ids = torch.randint(60, (2, 10))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    figures = measure(model, [{"input_ids": ids, "attention_mask": mask}])
    assert model.training
    model.eval()
    with torch.no_grad():
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    counted = (mask[:, 1:] == 1).flatten()
    kept, total = energies(
        hidden[:, :-1].reshape(-1, 16)[counted], model.get_output_embeddings().weight, ids[:, 1:].flatten()[counted], softcap
    )
    assert figures["tokens"] == int(counted.sum()) == 15
    assert figures["retained_energy"] == pytest.approx(kept.sum() / total.sum(), abs=1e-6)


def test_a_head_that_is_no_linear_map_is_refused():
    model, _ = tiny("llama")
    original = model.forward
    model.forward = lambda *a, **k: (lambda out: (setattr(out, "logits", out.logits**3), out)[1])(original(*a, **k))
    with pytest.raises(ValueError, match="must be softcap"):
        measure(model, [torch.randint(60, (2, 6))])


def test_the_package_offers_what_it_lists():
    assert all(hasattr(lmhead, name) for name in lmhead.__all__)
    with pytest.raises(AttributeError):
        lmhead.no_such_name
