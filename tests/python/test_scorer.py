"""lmhead.Scorer against the log softmax of transformers, for every family that is read."""

import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from test_families import CASES, VOCAB, make_checkpoint  # noqa: E402

try:
    from lmhead import Scorer
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)


FOLLOW_THEIR_LENGTH = ["llama_longrope_attention_factor"]  # already that of these requests


def draw_requests(seed=0):
    """Three questions of four choices, two of them of one token each, and a stranger."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(VOCAB, (count,), generator=generator).tolist()  # noqa: E731
    requests = []
    for question in range(3):
        context = draw(4 + 2 * question)
        requests += [(context, draw(1 if question == 1 else 2 + choice)) for choice in range(4)]
    return [*requests, (draw(1), draw(9))]


def reference(model, context, continuation):
    ids = torch.tensor([*context, *continuation])
    with torch.no_grad():
        log_p = model(ids[None, :-1]).logits[0].double().log_softmax(-1)[len(context) - 1 :]
    targets = ids[len(context) :]
    return float(log_p.gather(1, targets[:, None]).sum()), bool((log_p.argmax(1) == targets).all())


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_transformers(tmp_path, name):
    folder = tmp_path / name
    make_checkpoint(folder, *CASES[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    requests = draw_requests()
    if name in FOLLOW_THEIR_LENGTH:
        with pytest.raises(Exception, match="must be so short that rotary frequencies do not follow their length"):
            Scorer(folder).score(requests)
        return
    for request, score in zip(requests, Scorer(folder).score(requests), strict=True):
        log_probability, is_greedy = reference(model, *request)
        assert score.log_probability == pytest.approx(log_probability, abs=1e-4)
        assert score.is_greedy == is_greedy
        assert score.tokens == len(request[1])


@pytest.fixture
def checkpoint(tmp_path):
    make_checkpoint(tmp_path / "llama", *CASES["llama"])
    return tmp_path / "llama"


def test_bfloat16_is_near(checkpoint):
    requests = draw_requests()
    exact, rounded = Scorer(checkpoint).score(requests), Scorer(checkpoint, precision="bfloat16").score(requests)
    for one, other in zip(exact, rounded, strict=True):
        assert other.log_probability == pytest.approx(one.log_probability, abs=0.05 * one.tokens * 5)
    assert any(one.log_probability != other.log_probability for one, other in zip(exact, rounded, strict=True))


def test_threads_share_a_scorer(checkpoint):
    requests = draw_requests()
    want, scorer = Scorer(checkpoint).score(requests), Scorer(checkpoint)
    got = [None] * 3

    def score(place):
        got[place] = scorer.score(requests)

    threads = [threading.Thread(target=score, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 3


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # of these the former has a table that is not its head, the latter not
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_that_are_read_give_the_same_scores(tmp_path, name, precision):
    make_checkpoint(tmp_path / name, *CASES[name])
    requests = [request for seed in range(12) for request in draw_requests(seed)]
    options = {"precision": precision, "pass_tokens": 20}  # more passes than go through a block at once
    want = Scorer(tmp_path / name, **options).score(requests)
    scorer = Scorer(tmp_path / name, keep_weights=False, **options)
    got = [None] * 2
    threads = [threading.Thread(target=lambda place=place: got.__setitem__(place, scorer.score(requests))) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 2
    generated = Scorer(tmp_path / name, precision=precision).generate([1, 2, 3], max_new_tokens=5)
    assert scorer.generate([1, 2, 3], max_new_tokens=5) == generated
    assert scorer.score(requests) == want


def test_a_file_that_changed_is_not_read_on(checkpoint):
    scorer = Scorer(checkpoint, keep_weights=False)
    scorer.score([([1], [2])])
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(RuntimeError, match="model.safetensors"):
        scorer.score([([1], [2])])


def test_what_is_wrong_is_said(checkpoint):
    scorer = Scorer(checkpoint, max_length=5)
    assert scorer.max_length == 5 and scorer.vocab_size == VOCAB
    assert scorer.score([]) == []
    for request, message in [
        (([], [1]), "context of request 1 must hold at least one token"),
        (([1], []), "continuation of request 1 must hold at least one token"),
        (([1], [1] * 6), "must be no longer than max_length 5, got 6 tokens"),
        (([1], [VOCAB]), f"below {VOCAB}, got {VOCAB}"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            scorer.score([([1], [2]), request])
    with pytest.raises(RuntimeError, match="precision must be float32 or bfloat16"):
        Scorer(checkpoint, precision="float16")
    with pytest.raises(RuntimeError, match="must be"):
        Scorer(checkpoint.parent / "nothing")
