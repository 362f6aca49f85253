"""What tests of lmhead measure share: the command as built, a tiny checkpoint, texts. Imported by name into each of them."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["The quick brown fox jumps over the lazy dog. Ünïcödé – 数学 🙂 ends it.\n" * 3,
         "A second document, a little shorter,\n\nwith an empty line in it.\n" * 4]
PROGRAMS = ("tokenize", "tokenizer", "features", "fetch", "measurement-report")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs lmhead as built, with the Python programs of this tree on the path."""
    built = ROOT / "build" / "release" / "bin" / "lmhead"
    if not built.exists():
        pytest.skip("lmhead is not built")
    folder = tmp_path_factory.mktemp("bin")
    for name in PROGRAMS:
        program = folder / f"lmhead-{name}"
        program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'python')!r})\n"
                           f"from lmhead.__main__ import main\nsys.exit(main([{name!r}, *sys.argv[1:]]))\n")
        program.chmod(0o755)

    def peak(*arguments):
        """The most anonymous memory that the run held, in bytes: mapped files are not in it."""
        process = subprocess.Popen([built, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        most = 0
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
            time.sleep(0.002)
        assert process.wait() == 0
        return most * 1024

    def begin(*arguments):
        return subprocess.Popen([built, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(*arguments, expect=0, cwd=None, **environment):
        path = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run([built, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd,
                              env={**os.environ, "PATH": path, **environment})
        assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    run.peak, run.begin = peak, begin
    return run


def make_tokenizer(folder, vocab_size=300):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, eos_token_id=7))
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    return [folder / f"{index}.txt" for index in range(len(TEXTS))]


def refused(command, *arguments, **environment):
    done = command("measure", *arguments, expect=2, **environment)
    assert done.stderr.startswith("[") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not done.stdout
    return done.stderr
