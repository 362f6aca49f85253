"""Heads from Python: every one of the list, by itself, from what it says of itself."""

import copy
import io
import itertools
import json
import math
import pickle
import subprocess

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
try:
    import lmhead
    from lmhead import heads
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)

D, V, LAYERS, BATCH, LENGTH = 32, 128, 4, 3, 8
NAMES = heads.names()


def make(name, **options):
    counts = torch.arange(V, 0, -1)
    return heads.make(name, D, V, **{"seed": 5, "initializer_range": 0.3, "num_hidden_layers": LAYERS, "token_counts": counts} | options)


def a_pass(head, dtype=torch.float32, seed=0):
    """Features, targets, and what else the head says it needs."""
    generator = torch.Generator().manual_seed(seed)

    def features():
        return torch.randn(BATCH, LENGTH, D, generator=generator, dtype=torch.float64).to(dtype)

    hidden = features()
    ids = torch.randint(V, (BATCH, LENGTH + 1), generator=generator)
    ids[:, 4] = ids[:, 3]  # words of the context come again
    given = {"tokens": ids[:, :-1], "layers": [features() for _ in head.needs.layers], "step": 3, "steps": 10}
    return hidden, ids[:, 1:].contiguous(), given


def exact(given):
    """What a call without a step of training takes."""
    return {key: value for key, value in given.items() if key not in ("step", "steps")}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_list_is_that_of_the_command():
    assert len(NAMES) == len(set(NAMES)) >= 3 and NAMES[0] == "linear"
    program = ROOT / ".venv/bin/lmhead"
    if not program.exists():
        pytest.skip("lmhead is not installed")
    listed = json.loads(subprocess.run([program, "heads", "--json"], capture_output=True, text=True, check=True).stdout)
    assert [heads.describe(each) for each in NAMES] == listed


def test_a_head_tells_what_it_is(name):
    told = heads.describe(name)
    assert told["type"] == name and all(told[about] for about in ("formula", "cost", "memory", "source"))
    head = make(name)
    assert head.name == name and name in repr(head)
    assert {key["key"].removeprefix("head.").split(".")[0] for key in told["keys"]} == set(head.options) - {"type"}
    assert head.flops_per_token(LENGTH) > 0 and head.memory_per_token(LENGTH) >= 0


def test_losses_are_minus_the_log_probabilities(name):
    head = make(name)
    hidden, targets, given = a_pass(head)
    log_p = head.log_probabilities(hidden, **exact(given))
    assert log_p.shape == (BATCH, LENGTH, V)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(BATCH, LENGTH), rtol=0, atol=1e-5)
    torch.testing.assert_close(head(hidden, **exact(given)).float().log_softmax(-1), log_p, rtol=1e-5, atol=1e-5)
    losses = head.token_losses(hidden, targets, **exact(given))
    torch.testing.assert_close(losses, -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), rtol=1e-5, atol=1e-5)


def test_targets_that_are_ignored_count_nothing(name):
    head = make(name)
    hidden, targets, given = a_pass(head)
    some = targets.clone()
    some[0, :5] = some[2, 7] = -100
    losses, whole = (head.token_losses(hidden, each, **exact(given)) for each in (some, targets))
    torch.testing.assert_close(losses, whole.masked_fill(some == -100, 0), rtol=1e-5, atol=1e-5)
    mean, total = (head.loss(hidden, some, reduction=reduction, **given) for reduction in ("mean", "sum"))
    torch.testing.assert_close(total, mean * int((some != -100).sum()))
    none = torch.full_like(targets, -100)
    assert head.loss(hidden, none, reduction="sum", **given) == 0 and head.loss(hidden, none, **given).isnan()


def differences(function, tensor, directions, step=1e-5):
    """Central differences of `function` along each of `directions`, with `tensor` moved in place."""
    found, before = [], tensor.detach().clone()
    with torch.no_grad():
        for direction in directions:
            sides = []
            for sign in (1, -1):
                tensor.copy_(before + sign * step * direction)
                sides.append(function().item())
            tensor.copy_(before)
            found.append((sides[0] - sides[1]) / (2 * step))
    return found


@pytest.mark.parametrize("what", ["loss", "token_losses", "log_probabilities"])
def test_gradients_are_central_differences_in_float64(name, what):
    head = make(name).double()
    hidden, targets, given = a_pass(head, torch.float64)
    hidden.requires_grad_()
    for layer in given["layers"]:
        layer.requires_grad_()
    generator = torch.Generator().manual_seed(4)

    def random(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    upstream = random((BATCH, LENGTH, V) if what == "log_probabilities" else (BATCH, LENGTH))

    def function():
        if what == "loss":
            return 1.7 * head.loss(hidden, targets, **given)
        if what == "token_losses":
            return (upstream * head.token_losses(hidden, targets, **exact(given))).sum()
        return (upstream * head.log_probabilities(hidden, **exact(given))).sum()

    value = function()
    assert value.dtype == torch.float64
    value.backward()
    tensors = dict(head.named_parameters()) | {"hidden": hidden} | {f"layer {i}": x for i, x in enumerate(given["layers"])}
    for place, tensor in tensors.items():
        directions = [random(tensor.shape) for _ in range(2)]
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad  # a part that this output has no use for
        for direction, want in zip(directions, differences(function, tensor, directions)):
            got = (gradient * direction).sum().item()
            # A value's own rounding, over the step.
            assert got == pytest.approx(want, rel=2e-5, abs=2e-6 * max(1.0, abs(value.item()), gradient.norm().item())), place


def test_a_state_dict_goes_into_another_head(name):
    head, other = make(name), make(name, seed=6)
    hidden, targets, given = a_pass(head)
    want = head.log_probabilities(hidden, **exact(given))
    assert not torch.equal(other.log_probabilities(hidden, **exact(given)), want)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.log_probabilities(hidden, **exact(given)), want)


def test_names_are_those_of_a_checkpoint(name):
    model = torch.nn.Module()
    model.lm_head = make(name)
    own = list(model.state_dict())
    assert own and all(each.startswith("lm_head.") for each in own)
    if name == "low_rank":
        assert own == ["lm_head.down_proj.weight", "lm_head.up_proj.weight"]


def test_pickles_and_copies_are_heads_of_their_own(name):
    head = make(name)
    hidden, targets, given = a_pass(head)
    want = head.loss(hidden, targets, **given)
    for twin in (pickle.loads(pickle.dumps(head)), copy.deepcopy(head)):
        assert torch.equal(twin.loss(hidden, targets, **given), want)
        assert twin.options == head.options
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        assert torch.equal(head.loss(hidden, targets, **given), want)


@pytest.mark.parametrize("way", ["to", "autocast"])
def test_narrow_types_lose_little(name, way):
    head = make(name)
    hidden, targets, given = a_pass(head)
    want = head.loss(hidden, targets, **given)
    want.backward()
    gradients = {place: parameter.grad for place, parameter in head.named_parameters()}
    constants = {place: buffer.clone() for place, buffer in head.named_buffers()}
    twin = copy.deepcopy(head)
    twin.zero_grad()
    if way == "to":
        twin.to(torch.bfloat16)
        got = twin.loss(hidden.bfloat16(), targets, **given | {"layers": [x.bfloat16() for x in given["layers"]]})
    else:
        with torch.autocast("cpu", torch.bfloat16):
            got = twin.loss(hidden, targets, **given)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)  # 2^-8 a rounding, a few of them
    got.backward()
    for place, parameter in twin.named_parameters():
        if gradients[place] is None or not gradients[place].norm() > 0:
            continue
        assert parameter.grad.dtype == parameter.dtype == (torch.bfloat16 if way == "to" else torch.float32)
        assert torch.cosine_similarity(parameter.grad.float().flatten(), gradients[place].flatten(), 0) > 0.98, place
    for place, buffer in twin.named_buffers():
        assert torch.equal(buffer, constants[place]), place


def test_compiled_code_gives_the_same(name):
    head = make(name)
    body = torch.nn.Linear(D, D)
    hidden, targets, given = a_pass(head)

    def function(hidden):
        return head.loss(torch.tanh(body(hidden)), targets, **given) * 2

    want = function(hidden)
    want.backward()
    gradient = body.weight.grad.clone()
    body.zero_grad()
    torch._dynamo.reset()
    got = torch.compile(function, backend="aot_eager")(hidden)
    got.backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(body.weight.grad, gradient, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss(name):
    torch.manual_seed(0)
    head = make(name, initializer_range=0.02)
    embedding, body = torch.nn.Embedding(V, D), torch.nn.Linear(D, D)
    optimizer = torch.optim.AdamW([*embedding.parameters(), *body.parameters(), *head.parameters()], lr=0.03)
    tokens = torch.randint(V, (8, LENGTH), generator=torch.Generator().manual_seed(1))
    targets = (7 * tokens + 3) % V
    steps, exact_losses = 60, []
    for step in range(1, steps + 1):
        x = embedding(tokens)
        given = {"tokens": tokens, "layers": [x] * len(head.needs.layers)}
        hidden = torch.nn.functional.rms_norm(x + body(x), (D,))
        if step in (1, steps):
            exact_losses.append(head.token_losses(hidden, targets, **given).mean().item())
        optimizer.zero_grad()
        head.loss(hidden, targets, step=step, steps=steps, **given).backward()
        optimizer.step()
        head.after_update(step, steps)
    assert math.log(V) / 2 < exact_losses[0] < 2 * math.log(V)  # classes of unequal size are no uniform distribution
    assert exact_losses[1] < 0.5 * exact_losses[0]


def test_a_linear_head_is_linear_cross_entropy():
    head = make("linear", bias=True, logit_softcap=4.0)
    hidden, targets, _ = a_pass(head)
    with torch.no_grad():
        head.bias.normal_()
    want = lmhead.linear_cross_entropy(hidden, head.weight, targets, linear_bias=head.bias, logit_softcap=4.0)
    assert torch.equal(head.loss(hidden, targets), want)
    terms = {"z_loss": 0.1, "label_smoothing": 0.2}
    want = lmhead.linear_cross_entropy(hidden, head.weight, targets, linear_bias=head.bias, logit_softcap=4.0, **terms)
    assert torch.equal(head.loss(hidden, targets, **terms), want)


def test_a_tied_head_answers_to_the_embedding():
    embedding = torch.nn.Embedding(V, D)
    model = torch.nn.Module()
    model.embedding, model.head = embedding, make("linear", tied_embedding=embedding.weight)
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]
    hidden, targets, _ = a_pass(model.head)
    model.head.loss(hidden, targets).backward()
    assert embedding.weight.grad.norm() > 0
    twin = copy.deepcopy(model)
    assert twin.head.weight is twin.embedding.weight
    with pytest.raises(ValueError, match=r"low_rank must have model.tie_word_embeddings = false"):
        make("low_rank", tied_embedding=embedding.weight)


def test_a_head_that_is_tied_for_a_share_of_a_run_goes_on_alone():
    embedding = torch.nn.Embedding(V, D)
    head = make("linear", tied_embedding=embedding.weight, tied_share=0.5)
    assert torch.equal(head.weight, embedding.weight) and head.tied_weight is embedding.weight
    hidden, targets, _ = a_pass(head)
    optimizer = torch.optim.SGD([*embedding.parameters(), head.weight], lr=0.1)
    for step in range(1, 5):
        optimizer.zero_grad(set_to_none=True)
        head.loss(hidden, targets, step=step, steps=4).backward()
        assert (embedding.weight.grad is None) == (step > 2) and head.weight.grad.norm() > 0
        optimizer.step()
        head.after_update(step, 4)
        assert torch.equal(head.weight, embedding.weight) == (step <= 2)
    assert torch.equal(copy.deepcopy(head).log_probabilities(hidden), head.log_probabilities(hidden))
    with pytest.raises(RuntimeError, match="the step of training and their number must be given to a head with tied_share below 1"):
        head.loss(hidden, targets)
    with pytest.raises(ValueError, match="head.tied_share must be 1 where model.tie_word_embeddings is false, got 0.5"):
        make("linear", tied_share=0.5)


TEXTS = [b"".join(bytes([97 + digit]) for digit in digits) for length in (1, 2, 3) for digits in itertools.product(range(5), repeat=length)]


def test_classes_by_bytes_and_prefixes_come_from_the_bytes_that_are_given():
    texts = TEXTS[:V - 3]  # three ids that stand for no text
    head = make("two_level", by="bytes", classes=4, token_counts=None, token_bytes=texts)
    order = head.word_order.long().tolist()
    known = [*texts, b"", b"", b""]
    assert sorted(order) == list(range(V)) and [known[i] for i in order] == sorted(known)
    head = make("multi_resolution", prefix=True, token_bytes=texts)
    prefix_of = head.prefix_of.long().tolist()
    assert all(known[prefix_of[i]] == (text[:-1] if len(text) > 1 else text) for i, text in enumerate(texts))
    hidden, targets, given = a_pass(head)
    twin = pickle.loads(pickle.dumps(head))
    assert torch.equal(twin.loss(hidden, targets, **given), head.loss(hidden, targets, **given))


def test_a_tokenizer_tells_the_bytes_of_its_tokens():
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    texts = TEXTS[:V]
    model = tokenizers.models.WordLevel({text.decode(): index for index, text in enumerate(texts)}, unk_token="a")
    tokenizer = tokenizers.Tokenizer(model)
    want = make("two_level", by="bytes", token_bytes=texts).word_order
    for each in (tokenizer, transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)):
        assert torch.equal(make("two_level", by="bytes", token_bytes=each).word_order, want)


def test_classes_by_clusters_come_from_the_matrix_that_is_given():
    matrix = torch.zeros(V, 3)
    matrix[::2, 0], matrix[1::2, 1] = 1, 1  # two clusters, of the even and of the odd ids
    head = make("two_level", by="kmeans", classes=2, trained_matrix=matrix)
    assert head.class_sizes.tolist() == [V / 2, V / 2]
    assert len({i % 2 for i in head.word_order[: V // 2].long().tolist()}) == 1
    assert torch.equal(copy.deepcopy(head).word_order, head.word_order)


def test_initial_values_depend_on_the_seed_alone():
    assert torch.equal(make("linear").weight, make("linear").weight)
    assert not torch.equal(make("linear").weight, make("linear", seed=6).weight)
    torch.manual_seed(3)
    first = make("linear", seed=None).weight
    assert not torch.equal(make("linear", seed=None).weight, first)
    torch.manual_seed(3)
    assert torch.equal(make("linear", seed=None).weight, first)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (("lineer", D, V), {}, r"^\[head\] .*lineer.*did you mean linear\?$"),
        (("low_rank", D, V), {"rank": D + 1}, rf"^\[head\] head.rank must be at most hidden_size {D}, got {D + 1}$"),
        (("low_rank", D, V), {"rank": "four"}, r"^\[head\] rank must be an integer .*got \"four\"$"),
        (("low_rank", D, V), {"rnak": 4}, r"^\[head\] rnak must be a known key, .*rank"),
        (("linear", 0, V), {}, r"^\[head\] hidden_size and vocab_size must be at least 1, got 0 and 128$"),
        (("linear", D, V), {"token_counts": torch.zeros(V)}, r"^\[head\] token_counts must be int64 \[128\], got Float \[128\]$"),
        (("two_level", D, V), {"by": "kmeans"}, r"^\[head\] trained_matrix must be given for by = kmeans, got none$"),
        (("two_level", D, V), {"by": "kmeans", "trained_matrix": torch.zeros(V + 1, 2)}, r"a matrix to cluster must be \[128, D\], got \[129, 2\]"),
        (("two_level", D, V), {"by": "kmeans", "weights": "x", "trained_matrix": torch.zeros(V, 2)}, r"weights must be empty here, where trained_matrix"),
        (("two_level", D, V), {"by": "bytes"}, r"asks for the bytes of tokens, which .*, got none$"),
        (("two_level", D, V), {"by": "bytes", "token_bytes": ["a"]}, r"^\[head\] token_bytes must be a list of bytes, or a fast tokenizer, got list$"),
        (("two_level", D, V), {"by": "bytes", "token_bytes": [b"a"] * (V + 1)}, r"tokens with bytes must be at most 128, got 129$"),
        (("linear", D, V), {"tied_embedding": torch.zeros(V, D + 1)}, r"^\[head\] tied_embedding must be \[128, 32\], got \[128, 33\]$"),
    ],
)
def test_wrong_options_get_one_line(arguments, options, message):
    with pytest.raises(ValueError, match=message) as found:
        heads.make(*arguments, **options)
    assert "\n" not in str(found.value)


def test_wrong_input_gets_one_line():
    head = make("linear")
    hidden, targets, _ = a_pass(head)
    with pytest.raises(ValueError, match=r"targets must have the shape \(3, 8\) that goes with hidden, got \(8, 3\)"):
        head.loss(hidden, targets.t())
    with pytest.raises(RuntimeError, match="targets must be at least 0 and below vocab_size 128, got 128"):
        head.loss(hidden, targets.fill_(V))
    with pytest.raises(RuntimeError, match=r"hidden must be \[N, 32\], got \[24, 16\]"):
        head.token_losses(hidden[..., :16], targets.zero_())
    with pytest.raises(ValueError, match="reduction must be mean or sum, got 'none'"):
        head.loss(hidden, targets, reduction="none")
    with pytest.raises(TypeError, match="tokenz"):
        head.loss(hidden, targets, tokenz=targets)
    with pytest.raises(ValueError, match="name must be one of linear, .*, got 'nobody'"):
        heads.describe("nobody")


def test_heads_that_look_at_tokens_say_so(name):
    head = make(name)
    hidden, targets, given = a_pass(head)
    if head.needs.tokens:
        with pytest.raises(RuntimeError, match=r"\[head\] tokens must be int64 \[B, T\] with B T = 24 for this head, got"):
            head.token_losses(hidden, targets, layers=given["layers"])
        with pytest.raises(RuntimeError, match=r"\[head\] tokens must be at least 0 and below vocab_size 128, got 128"):
            head.token_losses(hidden, targets, layers=given["layers"], tokens=torch.full_like(targets, V))
    if head.needs.layers:
        with pytest.raises(RuntimeError, match=r"\[head\] layers must be those of"):
            head.token_losses(hidden, targets, tokens=given["tokens"])
    if head.needs.step:
        with pytest.raises(RuntimeError, match=r"\[head\] .*step"):
            head.loss(hidden, targets, **exact(given))
