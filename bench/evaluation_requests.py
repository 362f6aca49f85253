"""What the benchmark of evaluation asks, and the random model that it asks."""
import json
import pathlib
import pydoc_data.topics
import re

import tokenizers
import torch
import transformers

SETS = ("arc_easy", "piqa", "hellaswag_1000")
SHAPES = {  # of SmolLM2-135M, and one for tests
    "smollm2-135m": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                         max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5),
    "tiny": dict(vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=512),
}


def prose() -> list[str]:
    """Paragraphs of Python's own documentation, for machines without other text."""
    paragraphs = (" ".join(part.split()) for text in pydoc_data.topics.topics.values() for part in text.split("\n\n"))
    return [paragraph for paragraph in paragraphs if len(paragraph) > 200]


def cut_tokenizer(file: pathlib.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE less its last merges."""
    told = json.loads(file.read_text(encoding="utf-8"))
    kept = {token: place for token, place in told["model"]["vocab"].items() if place < vocab_size - 1}
    told["model"]["vocab"] = kept
    told["model"]["merges"] = [merge for merge in told["model"]["merges"] if merge.replace(" ", "") in kept]
    told["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(told))


def trained_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(prose(), tokenizers.trainers.BpeTrainer(
        vocab_size=min(vocab_size - 1, 8192), show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return made


def make_model(folder: pathlib.Path, shape_name: str, shared: pathlib.Path) -> str:
    """Writes a random Llama of that shape with a tokenizer; returns what the tokenizer is."""
    sizes = SHAPES[shape_name]
    of_gpt2 = shared / "tokenizers/gpt2.tokenizer.json"
    is_cut = of_gpt2.is_file() and sizes["vocab_size"] > 8192
    tokenizer = cut_tokenizer(of_gpt2, sizes["vocab_size"]) if is_cut else trained_tokenizer(sizes["vocab_size"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(tie_word_embeddings=True, **sizes)).save_pretrained(folder)
    return "GPT-2's, its last merges left out" if is_cut else "trained on Python's documentation"


def questions(shared: pathlib.Path, per_set: int) -> dict[str, list[tuple[str, str]]]:
    """Contexts with each of their choices: of real sets where they are there, else drawn from prose in their lengths."""
    found = {}
    for name in SETS:
        file = shared / "eval" / f"{name}.jsonl"
        if not file.is_file():
            continue
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:per_set]]
        contexts = [row["query"].strip() + ("\nAnswer:" if row["query"].startswith("Question:") else "") for row in rows]
        found[name] = [(context, f" {choice}") for context, row in zip(contexts, rows, strict=True) for choice in row["choices"]]
    if found:
        return found
    words = " ".join(prose()).split()
    for name, (asked, answered, choices) in {"short": (20, 4, 4), "middle": (10, 20, 2), "long": (45, 35, 4)}.items():
        pieces = iter(range(0, len(words), 50))
        found[name] = []
        for _ in range(per_set):
            place = next(pieces)
            context = " ".join(words[place : place + asked])
            found[name] += [(context, " " + " ".join(words[at : at + answered])) for at in (next(pieces) for _ in range(choices))]
    return found


def texts(shared: pathlib.Path, count: int, characters: int) -> list[str]:
    """Pieces of running text."""
    file = shared / "text/tinyshakespeare.txt"
    whole = file.read_text(encoding="utf-8") if file.is_file() else re.sub(r" +", " ", " ".join(prose()))
    return [whole[place * characters : (place + 1) * characters] for place in range(count)]
