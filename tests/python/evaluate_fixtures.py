"""A tiny model with a tokenizer of its own, and a few documents of tasks as local copies."""

import json
import shutil

from lmhead.evaluate.run import quiet_harness

quiet_harness()

import pyarrow
import pytest
import tokenizers
import torch
import transformers
from lmhead.evaluate.fetch_data import Copies

QUESTIONS = [
    ("Which animal lays eggs?", ["a hen", "a dog", "a cat that sleeps", "a cow"], 0),
    ("What falls from clouds?", ["stones", "rain", "leaves of trees", "light"], 1),
    ("What do plants need to grow?", ["noise", "sand alone", "sunlight and water", "paint"], 2),
    ("Who writes books?", ["fish", "a table", "clouds", "an author"], 3),
    ("What is frozen water called?", ["ice", "steam", "fire", "earth"], 0),
]
SENTENCES = [
    ("The cats that the dog chases run away.", "The cats that the dog chases runs away."),
    ("Many girls insulted themselves.", "Many girls insulted herself."),
    ("This book is old.", "This book are old."),
]
STORIES = [
    "Once upon a time there was a little girl who lived in a house by the sea",
    "The old man walked to the market to sell his cow and came home with beans",
]


def make_model(folder, seed=0, **changes):
    """Writes a random Llama and a byte-level BPE with a first and a last token."""
    texts = [text for question, choices, _ in QUESTIONS for text in (question, *choices)] + STORIES
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = dict(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=320, bos_token_id=0, eos_token_id=1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def make_data(folder):
    """Writes local copies of a few documents."""
    copies = Copies(folder)
    rows = [
        {"id": str(place), "question": question, "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
         "answerKey": "ABCD"[gold]}
        for place, (question, choices, gold) in enumerate(QUESTIONS)
    ]
    copies.add("allenai/ai2_arc", "ARC-Easy", "validation", pyarrow.Table.from_pylist(rows), "inline")
    copies.add("nyu-mll/blimp", "adjunct_island", "train", pyarrow.table({
        "sentence_good": [good for good, _ in SENTENCES], "sentence_bad": [bad for _, bad in SENTENCES]}), "inline")
    copies.add("EleutherAI/lambada_openai", "default", "test", pyarrow.table({"text": STORIES}), "inline")
    copies.add("google-research-datasets/nq_open", None, "validation", pyarrow.table({
        "question": [question.rstrip("?").lower() for question, _, _ in QUESTIONS],
        "answer": [[choices[gold]] for _, choices, gold in QUESTIONS]}), "inline")
    copies.add("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test", pyarrow.table({
        "page": [" = Title = \n " + " ".join(STORIES * 6), STORIES[0]]}), "inline")
    copies.finish()
    return folder


def make_dataset(folder, model):
    """A dataset's folder as far as its tokenizer goes: that of `model`, whose last token ends documents."""
    folder.mkdir()
    shutil.copy(model / "tokenizer.json", folder)
    (folder / "dataset.json").write_text(
        json.dumps({"format": "lmhead-dataset", "version": 1, "vocab_size": 1 << 16, "token_type": "uint16",
                    "tokenizer": "tokenizer.json", "tokenizer_hash": "hash", "end_of_document": 1, "splits": {},
                    "content_hash": "content"}), encoding="utf-8")
    return folder


TASKS = ["arc_easy", "blimp_adjunct_island", "lambada_openai", "nq_open", "wikitext"]


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory):
    """Folders of two models and of the data."""
    root = tmp_path_factory.mktemp("evaluation")
    return {
        "one": make_model(root / "one"),
        "two": make_model(root / "two", seed=1, hidden_size=48),
        "data": make_data(root / "data"),
    }


def read_json(file):
    return json.loads(file.read_text(encoding="utf-8"))
