"""Requests' answers against the harness's own backend: real small models, and a random one of every family (slow)."""

import os

import pytest

if not os.environ.get("LMHEAD_SLOW_TESTS"):
    pytest.skip("LMHEAD_SLOW_TESTS is not set", allow_module_level=True)
pytest.importorskip("lm_eval", reason="needs the extra evaluate")
import torch  # noqa: E402
import transformers  # noqa: E402
from evaluate_fixtures import make_data, make_model  # noqa: E402
from lmhead.command import RequestError  # noqa: E402
from lmhead.evaluate.fetch_data import Copies, add_folder, add_package, download  # noqa: E402
from lmhead.evaluate.harness import LmheadLM  # noqa: E402
from lmhead.evaluate.run import evaluate, load_tasks  # noqa: E402
from test_families import CASES  # noqa: E402

FAMILY_TASKS = ["arc_easy", "openbookqa", "social_iqa", "blimp_adjunct_island"]
REAL_TASKS = ["arc_easy", "hellaswag", "piqa", "lambada_openai", "blimp_adjunct_island", "blimp_passive_1", "mmlu_anatomy"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, shared_data_folder):
    """Local copies of what the package and the shared folder have."""
    root = tmp_path_factory.mktemp("data")
    copies = Copies(root / "data")
    try:
        add_package(copies, download(root))
    except RequestError as error:
        pytest.skip(str(error))
    add_folder(copies, shared_data_folder / "eval")
    copies.finish()
    return root / "data"


@pytest.fixture(scope="module")
def shared_data_folder():
    from conftest import ROOT

    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder


def compare(folder, tasks, limit, **options):
    """How many requests there were and how far answers lie apart, after both backends gave the same: every accuracy and
    greedy flag, and 1e-4 nats.

    The harness adds up in float64, which is an option of its own: in float32 it loses more than that where hundreds of numbers
    are added to a large one. Both compute in float32, so its unit roundoff comes to the bound: real texts reach 1,200 nats.
    """
    from lm_eval.models.huggingface import HFLM

    ours = evaluate(LmheadLM(folder, **options), tasks, limit=limit)
    theirs = evaluate(HFLM(pretrained=str(folder), device="cpu", dtype="float32", softmax_dtype="float64", batch_size=16, **options), tasks,
                      limit=limit)
    distances = []
    for task, samples in ours["samples"].items():
        for one, other in zip(samples, theirs["samples"][task], strict=True):
            assert one["arguments"] == other["arguments"]
            for mine, want in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
                assert mine[1] == want[1], (task, one["doc_id"])
                distances.append(abs(mine[0] - want[0]))
                assert distances[-1] <= 1e-4 + 6e-8 * abs(want[0]), (task, one["doc_id"])
        for name, value in theirs["results"][task].items():
            if name.startswith(("acc", "exact_match")) and isinstance(value, float):
                assert ours["results"][task][name] == value, (task, name)
    print(f"{folder}: {len(distances)} requests, {max(distances):.3g} nats apart at most")
    return len(distances)


@pytest.mark.parametrize(("model", "tasks", "options"), [
    ("stories260K-hf", REAL_TASKS, {"prefix_token_id": 1}),
    ("TinyStories-656K", [task for task in REAL_TASKS if task != "lambada_openai"], {}),
])
def test_real_models(shared_data_folder, data, model, tasks, options):
    assert compare(shared_data_folder / "models" / model, load_tasks(tasks, data=data), 40, **options) >= 500


def with_room(arguments):
    """For every sequence that is asked about: beyond, frequencies of the backend would follow its longest in a batch."""
    room = {key: 160 for key in ("n_positions", "max_position_embeddings", "original_max_position_embeddings") if key in arguments}
    ropes = {key: value | {"original_max_position_embeddings": 160} for key, value in arguments.items()
             if isinstance(value, dict) and "short_factor" in value}
    return arguments | ropes | room


@pytest.mark.parametrize("name", CASES)
def test_families(tmp_path, data, name):
    """Inputs that fit the context and those that lose their beginning; five hundred requests, and a few inline ones."""
    folder = make_model(tmp_path / "model")
    config_class, arguments = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(attn_implementation="eager", **{**with_room(arguments), "vocab_size": 320})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tasks = load_tasks(["arc_easy", "blimp_adjunct_island", "lambada_openai"], data=make_data(tmp_path / "data"))
    assert compare(folder, tasks, None, max_length=60) == 20 + 6 + 2
    assert compare(folder, load_tasks(FAMILY_TASKS, data=data), 40, max_length=150) >= 500
