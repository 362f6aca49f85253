"""The examples do what they say: a patched model of transformers trains the same, a plain loop measures the same."""

import copy
import importlib.util
import inspect
import os
import pathlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
try:
    import lmhead
    from lmhead import ops  # noqa: F401
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def load(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def tiny(kind):
    torch.manual_seed(0)
    common = dict(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )
    if kind == "gpt2":  # the head is the embedding
        config = transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                         resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return transformers.GPT2LMHeadModel(config).train()
    if kind == "gemma2":  # soft-capped
        config = transformers.Gemma2Config(**common, head_dim=8, final_logit_softcapping=2.0)
        return transformers.Gemma2ForCausalLM(config).train()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, tie_word_embeddings=False)).train()


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (3, 17), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :5] = -100  # a prompt
    labels[1, 12:], mask[1, 12:] = -100, 0  # padding
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("items", [None, 50])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_patched_model_of_transformers_has_the_same_loss_and_gradients(kind, items):
    model = tiny(kind)
    patched = load("patch_transformers").train_without_logits(copy.deepcopy(model))
    inputs = batch() | ({"num_items_in_batch": items} if items else {})
    expected = loss_and_gradients(model, **inputs)
    head_calls = []
    patched.get_output_embeddings().register_forward_hook(lambda *_: head_calls.append(1))
    got = loss_and_gradients(patched, **inputs)
    assert not head_calls, "the logits were formed"
    for name, value in expected.items():
        # A few float32 roundings, relative to the largest entry of the tensor.
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=2e-6 * float(value.abs().max()) + 1e-9, msg=name)


def test_a_patched_model_evaluates_and_copies_like_any_other():
    model = tiny("llama")
    patched = load("patch_transformers").train_without_logits(copy.deepcopy(model))
    assert inspect.signature(patched.forward) == inspect.signature(model.forward)  # where Trainer looks
    inputs = batch()
    twin = copy.deepcopy(patched)
    with torch.no_grad():
        twin.lm_head.weight.zero_()  # uniform predictions, in the copy alone
    torch.testing.assert_close(twin(**inputs).loss, torch.tensor(300.0).log())
    torch.testing.assert_close(patched(**inputs).loss, model(**inputs).loss)
    model.eval(), patched.eval()
    assert torch.equal(patched(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("on_head", [False, True])
def test_an_adapter_added_after_patching_trains_with_the_same_loss_or_is_refused(on_head):
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    patched = load("patch_transformers").train_without_logits(copy.deepcopy(model))
    configuration = peft.LoraConfig(r=2, target_modules=["q_proj"] + (["lm_head"] if on_head else []), lora_dropout=0.0,
                                    init_lora_weights=False)  # the delta is no zero
    adapted = []
    for each in (model, patched):
        torch.manual_seed(0)
        adapted.append(peft.get_peft_model(each, configuration).train())
    expected = adapted[0](**batch()).loss
    if on_head:
        with pytest.raises(TypeError, match="must be a Linear layer and nothing more, got peft"):
            adapted[1](**batch())
    else:
        torch.testing.assert_close(adapted[1](**batch()).loss, expected)


def test_a_head_that_computes_its_weight_is_used_as_it_computes_it():
    model = tiny("llama")
    patched = load("patch_transformers").train_without_logits(copy.deepcopy(model))
    for each in (model, patched):
        torch.nn.utils.parametrizations.weight_norm(each.lm_head)
    expected, got = (loss_and_gradients(each, **batch()) for each in (model, patched))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=2e-6 * float(value.abs().max()) + 1e-9, msg=name)


def test_trainer_takes_a_patched_model(tmp_path):
    pytest.importorskip("accelerate")
    examples = batch()
    rows = [{name: tensor[row] for name, tensor in examples.items()} for row in range(3)] * 2
    finals = []
    for patch in (lambda model: model, load("patch_transformers").train_without_logits):
        model = patch(tiny("llama"))
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=1, gradient_accumulation_steps=2,
            report_to=[], save_strategy="no", use_cpu=True, learning_rate=1e-3, seed=0, disable_tqdm=True,
        )
        transformers.Trainer(model=model, args=arguments, train_dataset=rows).train()
        finals.append(model.lm_head.weight.detach())
    torch.testing.assert_close(finals[1], finals[0], rtol=0, atol=1e-5)


def test_a_plain_loop_measures_while_it_trains(capsys):
    measured = load("measure_while_training").train(steps=20)
    assert [figures["step"] for figures in measured] == [10, 20]
    assert measured[1]["loss"] < measured[0]["loss"] < 5
    assert measured[0]["tokens"] == 16 * 64
    assert measured[0]["null_destroyed_ratio"] == pytest.approx((1 - 32 / 256) ** 0.5)
    assert 0 < measured[0]["destroyed_ratio"] < 1
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.fixture(scope="module")
def preference():
    return load("preference")


def test_log_probabilities_are_those_of_the_logits(preference):
    model = preference.demo_model()
    ids = torch.randint(1000, (3, 12))
    mask = torch.rand(3, 12) < 0.6
    got = preference.log_probabilities(model, ids, mask)
    want = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
    torch.testing.assert_close(got, want)


def test_preferred_answers_become_likelier(preference):
    losses = preference.train_by_dpo(steps=12)
    assert abs(losses[0] - 0.6931) < 1e-3 and losses[-1] < 0.5
    rewards = preference.train_by_grpo(steps=24)
    assert sum(rewards[-4:]) > sum(rewards[:4]) + 0.2


def test_preference_losses_are_those_of_liger_kernel(preference):
    chunked_loss = pytest.importorskip("liger_kernel.chunked_loss")
    generator = torch.Generator().manual_seed(5)
    weight, reference_weight = torch.randn(2, 50, 8, generator=generator)
    hidden, reference_hidden = torch.randn(2, 6, 7, 8, generator=generator)  # three chosen, then three rejected
    targets = torch.randint(50, (6, 7), generator=generator)
    targets[:, :2] = -100
    peer = chunked_loss.LigerFusedLinearDPOLoss(beta=0.2, compute_nll_loss=False, compiled=False)
    theirs = peer(weight, hidden, targets, ref_input=reference_hidden, ref_weight=reference_weight)[0]

    def sums(h, w):
        return lmhead.linear_token_log_probabilities(h, w, targets).sum(-1).chunk(2)

    ours = preference.dpo_loss(*sums(hidden, weight), *sums(reference_hidden, reference_weight), beta=0.2)
    torch.testing.assert_close(ours, theirs)


HEADS = lmhead.heads.names()


FAMILIES = ["Llama", "GPT-2"]
PAIRS = [(name, family) for place, name in enumerate(HEADS) for family in (FAMILIES if os.environ.get("LMHEAD_SLOW_TESTS") else [FAMILIES[place % 2]])]


@pytest.mark.parametrize("name, family", PAIRS)
def test_every_head_trains_and_generates_on_models_of_transformers(family, name):
    example = load("heads_in_transformers")
    torch.manual_seed(0)
    model = example.use_head(example.tiny_models()[family], name, steps=20)
    first, last = example.train(model, steps=20)
    assert last < first - 0.5
    model.eval()
    ids = torch.arange(12).unsqueeze(0)
    output = model(input_ids=ids, labels=ids)
    assert output.logits.shape == (1, 12, 500)
    # The tokens' own losses are those of the logits that generation sees.
    expected = torch.nn.functional.cross_entropy(output.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)
    assert model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (1, 15)


def test_a_head_on_a_model_of_transformers_has_the_loss_of_the_linear_one():
    example = load("heads_in_transformers")
    model = tiny("llama")
    patched = example.use_head(copy.deepcopy(model), "linear")
    with torch.no_grad():
        patched.lm_head.weight.copy_(model.lm_head.weight)
    for inputs in (batch(), batch() | {"num_items_in_batch": 50}):
        expected, got = (loss_and_gradients(each, **inputs) for each in (model, patched))
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, rtol=1e-5, atol=2e-6 * float(value.abs().max()) + 1e-9, msg=key)
