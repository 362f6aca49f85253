"""vocab.json with merges.txt, and tokenizer.model: the ids of the tokenizer that they were taken from."""

import json
import subprocess
import sys

import pytest
from lmhead.command import RequestError
from lmhead.prepare.encoders import tokenizer_file
from measure_fixtures import TEXTS, checkpoint, command, make_tokenizer, refused, text_files, tokenizers  # noqa: F401

ODD = [*TEXTS, "  two  spaces\r\n\tand 1234567 it's", "the  quick brown\nfoxes 🙂 of number 77", "x", "a  b ", "ﬁne ½ Å"]


def opened(path):
    return tokenizers.Tokenizer.from_buffer(tokenizer_file(str(path)))


def take_apart(folder):
    """vocab.json and merges.txt of a byte-level tokenizer, which is returned."""
    tokenizer = make_tokenizer(folder)
    described = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(described["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in described["merges"]) + "\n")
    return tokenizer


def test_vocabulary_and_merges_give_the_same_ids(tmp_path):
    tokenizer = take_apart(tmp_path)
    for text in ODD:
        assert opened(tmp_path / "vocab.json").encode(text).ids == tokenizer.encode(text, add_special_tokens=False).ids
    size = tokenizer.get_vocab_size()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": {"content": "<s>"}, "add_bos_token": True,
         "added_tokens_decoder": {str(size): {"content": "<|extra|>", "special": True}}}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<plain>": size + 1}))
    again = opened(tmp_path / "vocab.json")
    assert again.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0]).ids
    assert again.encode("<|extra|><plain>", add_special_tokens=False).ids == [size, size + 1]
    assert again.decode([size, size + 1]) == "<plain>"


def test_faults_are_named(tmp_path):
    take_apart(tmp_path)

    def refused(must, **files):
        before = {name: (tmp_path / name).read_text() if (tmp_path / name).exists() else None for name in files}
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        with pytest.raises(RequestError, match=must):
            tokenizer_file(str(tmp_path / "vocab.json"))
        for name, content in before.items():
            (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)

    refused("tokenizer_class must be one of", **{"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}'})
    refused("must be JSON", **{"tokenizer_config.json": "["})
    refused("must be an object", **{"vocab.json": "[1]"})
    refused("different ids", **{"vocab.json": '{"a": 1, "b": 1}'})
    refused("pairs of tokens", **{"merges.txt": "qqqq zzzz\n"})
    refused("must have the id 7000", **{"added_tokens.json": '{"<new>": 7000}'})
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(RequestError, match="merges.txt must be a regular file"):
        tokenizer_file(str(tmp_path / "vocab.json"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("options", [dict(normalization_rule_name="identity", remove_extra_whitespaces=False),
                                     dict(normalization_rule_name="nmt_nfkc"),
                                     dict(normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False)])
def test_a_sentencepiece_model_gives_its_own_ids(tmp_path, kind, options):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = TEXTS[1].splitlines() * 20 + [f"number {n} of the quick brown foxes, {n * n} dogs" for n in range(200)]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(tmp_path / "tokenizer"), model_type=kind,
                                             vocab_size=340, byte_fallback=True, minloglevel=2, user_defined_symbols=["<mark>"], **options)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = opened(tmp_path / "tokenizer.model")
    for text in ["the quick brown fox", "a number 17 of  foxes", "number 3 of the quick dogs, 9 empty lines", *ODD[:2]]:
        wanted = theirs.encode(text)
        assert ours.encode(text).ids == [theirs.bos_id(), *wanted], text
        assert ours.decode(wanted) == theirs.decode(wanted)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert opened(tmp_path / "tokenizer.model").encode("quick").ids == theirs.encode("quick")
    content = (tmp_path / "tokenizer.model").read_bytes()
    for damaged in (b"", b"\xff" * 40, content[: len(content) // 2]):
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(RequestError):
            tokenizer_file(str(tmp_path / "tokenizer.model"))
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(content)
    proto.ClearField("trainer_spec"), proto.ClearField("normalizer_spec")  # as where a file ends between two pieces
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(RequestError, match="without its trainer_spec"):
        tokenizer_file(str(tmp_path / "tokenizer.model"))


def test_models_take_them(command, checkpoint, text_files, tmp_path):
    """lmhead measure, sample and evaluate read a folder with vocab.json and merges.txt as one with their tokenizer.json."""
    slow = tmp_path / "slow"
    slow.mkdir()
    tokenizer = take_apart(slow)
    for name in ("config.json", "model.safetensors"):
        (slow / name).write_bytes((checkpoint / name).read_bytes())
    (slow / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "<s>", "unk_token": "<s>", "add_bos_token": True}))

    def figures(folder):
        command("measure", folder, "--only", "quality", "--json", tmp_path / "out.json", "--text", *text_files)
        return json.loads((tmp_path / "out.json").read_text())["models"][0]["quality"]

    def sampled(folder):
        return command("sample", folder, "--prompt", "The quick", "--temperature", 0, "--max-new-tokens", 12, "--ids").stdout

    assert figures(slow) == figures(checkpoint)
    assert sampled(slow) == sampled(checkpoint)
    from lmhead.evaluate.scorer import Scorer
    from lmhead.evaluate.tokenizer import open_tokenizer
    opened_by_harness = open_tokenizer(Scorer(slow).description, slow)
    assert opened_by_harness.encode(TEXTS[0], add_special_tokens=False) == tokenizer.encode(TEXTS[0], add_special_tokens=False).ids
    (slow / "merges.txt").unlink()
    assert "merges.txt" in refused(command, slow, "--text", *text_files)


def test_prepare_takes_them(tmp_path):
    tokenizer = take_apart(tmp_path)
    (tmp_path / "text.txt").write_text("".join(TEXTS) * 4, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "lmhead", "prepare", tmp_path / "data", tmp_path / "text.txt", "--tokenizer",
                    tmp_path / "vocab.json", "--validation-fraction", "0.5", "--document-bytes", "200", "--end-of-document", "<s>"], check=True)
    kept = tokenizers.Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    assert kept.get_vocab_size() == tokenizer.get_vocab_size()
    assert kept.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0], add_special_tokens=False).ids
