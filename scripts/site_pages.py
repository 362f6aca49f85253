"""For mkdocs: the pages of the site that are no files of docs/, and links that would lead out of it.

`index.md` is the README; `verbs.md` has every verb's --help, `python.md` every public name of the package; `contributing.md` and
`changes.md` are the files of these names. What is linked and is no page (a study, an example) becomes its path as code.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
OTHERS = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
MODULES = {  # beside what `lmhead` itself offers
    "Heads": ["lmhead.heads.make", "lmhead.heads.names", "lmhead.heads.Head"],
    "Statistics of a pass": ["lmhead.ops.linear_cross_entropy_with_statistics", "lmhead.ops.TokenStatistics"],
    "In other people's trainers": [
        "lmhead.integrations.measurement.HeadMeasurement",
        "lmhead.integrations.transformers.HeadCallback",
        "lmhead.integrations.lightning.HeadCallback",
    ],
}


def on_files(files: Any, config: Any) -> Any:
    for page, source in OTHERS.items():
        files.append(File.generated(config, page, content=_inside((ROOT / source).read_text(encoding="utf-8"), ROOT, files)))
    files.append(File.generated(config, "verbs.md", content=_verbs()))
    files.append(File.generated(config, "python.md", content=_python()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links out of docs/ become code."""
    if page.file.src_uri in OTHERS or page.file.generated_by:
        return markdown
    return _inside(markdown, (ROOT / "docs" / page.file.src_uri).parent, files, page.file.src_uri)


def _inside(markdown: str, folder: Path, files: Any, page: str = "index.md") -> str:
    """`markdown` of a file in `folder` as `page` of the site has it."""

    def target(address: str) -> str | None:
        path, _, anchor = address.partition("#")
        if not path or "://" in address or address.startswith("mailto:"):
            return address
        whole = (folder / path).resolve()
        for name, source in OTHERS.items():
            if whole == ROOT / source:
                return _relative(name, page) + ("#" + anchor if anchor else "")
        docs = ROOT / "docs"
        if whole.is_dir():
            whole = whole / "README.md"
        if docs in whole.parents and files.get_file_from_path(whole.relative_to(docs).as_posix()):
            return _relative(whole.relative_to(docs).as_posix(), page) + ("#" + anchor if anchor else "")
        return None

    def link(match: re.Match[str]) -> str:
        found = target(match[2])
        if found is not None:
            return f"[{match[1]}]({found})"
        path = os.path.relpath((folder / match[2].partition("#")[0]).resolve(), ROOT)
        return f"{match[1]} (`{path}`)" if path.strip("./") not in match[1].strip("`") else f"`{path}`"

    def image(match: re.Match[str]) -> str:
        return f"![{match[1]}]({target(match[2]) or match[2]})"

    return LINK.sub(link, IMAGE.sub(image, markdown))


def _relative(path: str, page: str) -> str:
    return os.path.relpath(path, os.path.dirname(page) or ".")


def _verbs() -> str:
    """Every verb's --help."""
    sys.path.insert(0, str(ROOT / "python"))
    from lmhead.verbs import VERBS

    whole = _help()
    native = re.findall(r"^  ([a-z]+) ", whole[whole.index("Subcommands:") :], re.M)
    lines = ["# Verbs", "", "What `--help` says of each.", "", "```text", whole, "```", ""]
    for verb in [*native, *VERBS]:
        lines += [f"## lmhead {verb}", "", "```text", _help(verb), "```", ""]
    return "\n".join(lines)


def _help(*verb: str) -> str:
    program = ROOT / ".venv/bin/lmhead"
    done = subprocess.run([program, *verb, "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    if done.returncode != 0:
        raise SystemExit(f"[docs] lmhead {' '.join(verb)} --help must work, got: {done.stderr.strip()}")
    return done.stdout.rstrip()


def _python() -> str:
    """Every name that `lmhead` offers, from the module that has it."""
    tree = ast.parse((ROOT / "python/lmhead/__init__.py").read_text(encoding="utf-8"))
    (homes,) = (
        ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_NATIVE"
    )
    lines = ["# From Python", "", "Importing `lmhead` is cheap; libtorch and the native library are loaded with the first name that needs them.", ""]
    lines += ["## lmhead", ""]
    for name in sorted(homes, key=str.lower):
        lines += _described(f"lmhead.{homes[name]}.{name}", f"lmhead.{name}")
    for title, names in MODULES.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += _described(name, name)
    return "\n".join(lines)


def _described(path: str, heading: str) -> list[str]:
    return [f"::: {path}", "    options:", f"      heading: {heading}", f"      toc_label: {heading.removeprefix('lmhead.')}", ""]
