"""lmhead.GradientRetention and lmhead.measure against float64 NumPy."""

import copy
import pickle

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


def test_shapes_are_compared_before_they_are_flattened():
    retention = GradientRetention(torch.randn(8, 4))
    hidden = torch.randn(2, 3, 4)
    for targets in (torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3, 1), torch.zeros(())):
        with pytest.raises(ValueError, match=r"targets must have the shape \(2, 3\)"):
            retention.update(hidden, targets.long())
    with pytest.raises(ValueError, match="targets must be integers, got torch.float32"):
        retention.update(hidden, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="targets must have the shape"):
        retention.update(torch.tensor(1.0), torch.tensor(1))
    assert retention.update(hidden, torch.zeros(2, 3, dtype=torch.int32)).shape == (6,)
    assert retention.update(hidden[0, 0], torch.tensor(1)).shape == (1,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no other device")
def test_tensors_of_another_device_are_copied():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(9, 4), torch.randn(8, 4), torch.randint(8, (9,))
    there, here = GradientRetention(weight.cuda(), torch.zeros(8).cuda()), GradientRetention(weight, torch.zeros(8))
    assert torch.equal(there.update(hidden.cuda(), targets.cuda()), here.update(hidden, targets))
    there.update(hidden.cuda(), targets), here.update(hidden, targets)
    assert there.compute() == here.compute()


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda retention: pickle.loads(pickle.dumps(retention))])
def test_a_copy_goes_on_where_the_original_stood_and_leaves_it_alone(twin):
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(50, 12), torch.randn(97, 12, requires_grad=True), torch.randint(97, (50,))
    options = dict(bias=torch.randn(97), logit_scale=0.5, logit_softcap=3.0)
    retention, whole = GradientRetention(weight, **options), GradientRetention(weight, **options)
    retention.update(hidden[:20], targets[:20])
    before, other = retention.compute(), twin(retention)
    assert other.compute() == before
    other.update(hidden[20:], targets[20:])
    whole.update(hidden[:20], targets[:20]), whole.update(hidden[20:], targets[20:])
    assert other.compute() == whole.compute() and retention.compute() == before
    fresh = twin(GradientRetention(weight))
    with pytest.raises(RuntimeError, match="at least one token"):
        fresh.compute()


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


def by_hand(model, ids, counted, **inputs):
    """Tokens and retained energy over the positions of `counted` [B, T - 1], from the features of the model itself."""
    with torch.no_grad():
        hidden = model.eval().model(input_ids=ids, **inputs).last_hidden_state
    kept, total = energies(hidden[:, :-1][counted], model.get_output_embeddings().weight, ids[:, 1:][counted])
    return int(counted.sum()), kept.sum() / total.sum()


def assert_measures(figures, expected):
    assert figures["tokens"] == expected[0]
    assert figures["retained_energy"] == pytest.approx(expected[1], abs=1e-6)


def test_a_position_of_padding_predicts_nothing_on_either_side():
    model, _ = tiny("llama")
    ids, mask = torch.randint(60, (3, 10)), torch.ones(3, 10, dtype=torch.int64)
    mask[0, :4] = 0  # left
    mask[1, 7:] = 0  # right
    mask[2, 3:5] = 0  # a hole
    counted = (mask[:, 1:] * mask[:, :-1]).bool()
    assert counted.sum() == 5 + 6 + 2 + 4
    for given in (mask, mask.bool(), mask.float(), mask.tolist()):
        assert_measures(measure(model, [{"input_ids": ids, "attention_mask": given}]),
                        by_hand(model, ids, counted, attention_mask=mask))


def test_labels_leave_targets_out_as_the_loss_of_the_model_does():
    model, _ = tiny("llama")
    ids = torch.randint(60, (2, 10))
    labels = ids.clone()
    labels[0, :4] = -100  # a prompt, whose last token predicts the first of the answer
    labels[1, 6] = -100
    expected = by_hand(model, ids, labels[:, 1:] != -100)
    assert expected[0] == 6 + 8
    assert_measures(measure(model, [{"input_ids": ids, "labels": labels}]), expected)


def test_a_document_of_a_packed_row_is_not_predicted_from_the_one_before():
    model, _ = tiny("llama")
    ids = torch.randint(60, (2, 10))
    positions = torch.tensor([[*range(4), *range(6)], [*range(1), *range(9)]])
    counted = positions[:, 1:] > 0
    assert counted.sum() == 8 + 8
    batch = {"input_ids": ids, "position_ids": positions}
    assert_measures(measure(model, [batch]), by_hand(model, ids, counted, position_ids=positions))
    one = {"input_ids": ids, "position_ids": torch.arange(10)}  # for every row
    assert_measures(measure(model, [one]), by_hand(model, ids, torch.ones(2, 9, dtype=bool)))


def test_ids_come_as_tensors_lists_and_what_tokenizers_return():
    model, _ = tiny("llama")
    ids = torch.randint(60, (2, 10))
    expected = by_hand(model, ids, torch.ones(2, 9, dtype=bool))
    encoding = transformers.BatchEncoding({"input_ids": ids.tolist(), "attention_mask": [[1] * 10] * 2,
                                           "special_tokens_mask": [[0] * 10] * 2})
    for batches in ([ids], ids, [ids.to(torch.int32)], [ids.tolist()], ids.tolist(), [ids.numpy()], [encoding],
                    [transformers.BatchEncoding({"input_ids": row.tolist()}) for row in ids], [ids[:, :0], ids]):
        assert_measures(measure(model, batches), expected)


@pytest.mark.parametrize("batches, message", [
    (lambda ids: {"input_ids": ids}, "must be an iterable of batches, got a mapping"),
    (lambda ids: [{"attention_mask": ids}], "must have input_ids, got attention_mask"),
    (lambda ids: [ids.float()], "input_ids must be integers, got torch.float32"),
    (lambda ids: [ids[None]], r"input_ids must be \[B, T\] or \[T\], got \(1, 2, 6\)"),
    (lambda ids: [[[1, 2, 3], [4, 5]]], "rows of different lengths"),
    (lambda ids: ["text"], "input_ids must be integers .* got str"),
    (lambda ids: [ids + 60], "below the model's 60 tokens, got"),
    (lambda ids: [ids - 60], "at least 0 and below the model's 60 tokens, got -"),
    (lambda ids: [{"input_ids": ids, "attention_mask": ids[:1]}], r"attention_mask must have the shape \(2, 6\)"),
    (lambda ids: [{"input_ids": ids, "attention_mask": torch.ones(2, 1, 6, 6)}], r"attention_mask must be \[B, T\]"),
    (lambda ids: [{"input_ids": ids, "labels": ids.T}], r"labels must have the shape \(2, 6\)"),
    (lambda ids: [{"input_ids": ids, "position_ids": ids[:, :3]}], r"position_ids must have the shape \(2, 6\)"),
])
def test_what_is_no_batch_is_refused_in_words(batches, message):
    model, _ = tiny("llama")
    with pytest.raises(ValueError, match=r"^\[measure\] .*" + message):
        measure(model, batches(torch.randint(60, (2, 6))))
    with pytest.raises(RuntimeError, match="at least one token"):
        measure(model, [torch.randint(60, (2, 1)), {"input_ids": [[1, 2]], "attention_mask": [[0, 1]]}])


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
