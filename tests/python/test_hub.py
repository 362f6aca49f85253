"""A name on the hub in place of a folder: fetched once, never as pickle, by measure, sample and inspect."""

import http.server
import json
import threading

import pytest
import safetensors.torch as safetensors_torch
from measure_fixtures import checkpoint, command, refused, text_files  # noqa: F401


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as fetching a model takes."""

    files: dict = {}
    sha = "0123456789abcdef0123456789abcdef01234567"
    asked: list = []

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        headers = {"X-Repo-Commit": self.sha}
        name = path.rpartition(f"/resolve/{self.sha}/")[2]
        if path.startswith("/api/models/some/model/tree/"):
            body = json.dumps([{"type": "file", "path": name, "size": len(data), "oid": f"{index:040x}"}
                               for index, (name, data) in enumerate(self.files.items())]).encode()
        elif path.startswith("/api/models/some/model"):
            body = json.dumps({"id": "some/model", "sha": self.sha, "private": False, "tags": [], "downloads": 0, "likes": 0,
                               "siblings": [{"rfilename": name} for name in self.files]}).encode()
        elif path.startswith("/some/model/resolve/") and name in self.files:
            body = self.files[name]
            headers["ETag"] = f'"{hash(name) & 0xffffffff:x}"'
        else:
            body = b'{"error": "Repository not found"}'
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(404 if "X-Error-Code" in headers else 200)
        for key, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(checkpoint):
    Hub.files = {file.name: file.read_bytes() for file in checkpoint.iterdir() if file.is_file()}
    Hub.files["pytorch_model.bin"] = b"pickle"
    Hub.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment_of(hub, tmp_path):
    return {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


def test_a_name_on_the_hub_is_fetched_once_and_never_as_pickle(command, checkpoint, text_files, hub, tmp_path):
    environment = environment_of(hub, tmp_path)
    arguments = ("--text", *text_files, "--only", "gradient_retention", "--json", tmp_path / "out.json")
    command("measure", "some/model", *arguments, **environment)
    fetched = json.loads((tmp_path / "out.json").read_text())["models"][0]
    assert any(path.endswith("model.safetensors") for path in Hub.asked)
    assert not any("pytorch_model.bin" in path for path in Hub.asked)
    command("measure", "some/model", *arguments, **environment, HF_HUB_OFFLINE="1")
    command("measure", checkpoint, *arguments)
    local = json.loads((tmp_path / "out.json").read_text())["models"][0]
    assert fetched["gradient_retention"] == local["gradient_retention"] and fetched["model"] == "some/model"
    message = refused(command, "some/other", *arguments, **environment)
    assert "some/other" in message and "[fetch]" in message


def test_sampling_takes_a_name_on_the_hub_too(command, checkpoint, hub, tmp_path):
    environment = environment_of(hub, tmp_path)
    arguments = ("--prompt-ids", "1,2,3", "--max-new-tokens", 5, "--temperature", 0, "--ids")
    fetched = command("sample", "some/model", *arguments, **environment)
    assert fetched.stdout == command("sample", checkpoint, *arguments).stdout
    for verb in (("sample", "some/other", *arguments), ("inspect", "some/other")):
        done = command(*verb, expect=2, **environment)
        assert done.stderr.startswith("[fetch]") and len(done.stderr.strip().splitlines()) == 1


def split_in_two(hub_files):
    """The checkpoint's weights as two shards under names of their own, with an index."""
    tensors = safetensors_torch.load(hub_files.pop("model.safetensors"))
    names = sorted(tensors)
    halves = {"weights-first.safetensors": names[::2], "tf_model.00002.safetensors": names[1::2]}
    for file, part in halves.items():
        hub_files[file] = safetensors_torch.save({name: tensors[name] for name in part})
    return {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}


def test_shards_are_fetched_under_the_names_that_the_index_has(command, checkpoint, hub, tmp_path):
    Hub.files["model.safetensors.index.json"] = json.dumps(split_in_two(Hub.files)).encode()
    Hub.files["consolidated.00.safetensors"] = b"the same weights for another program"
    arguments = ("--prompt-ids", "1,2,3", "--max-new-tokens", 5, "--temperature", 0, "--ids")
    fetched = command("sample", "some/model", *arguments, **environment_of(hub, tmp_path))
    assert fetched.stdout == command("sample", checkpoint, *arguments).stdout
    assert not any("consolidated" in path for path in Hub.asked)


@pytest.mark.parametrize("index, message", [
    ({"weight_map": {"a": "../../other.safetensors"}}, "of the same folder"),
    ({"weight_map": {"a": "model-*.safetensors"}}, "of the same folder"),
    ({"weight_map": {"a": "weights.bin"}}, "of the same folder"),
    ({"weight_map": {"a": 3}}, "of the same folder"),
    ({"weight_map": ["a"]}, "must have a weight_map"),
    ([], "must have a weight_map"),
    ("[" * 100000, "must have a weight_map"),
])
def test_an_index_that_names_no_weights_is_refused(command, hub, tmp_path, index, message):
    Hub.files.pop("model.safetensors")
    Hub.files["model.safetensors.index.json"] = (index if isinstance(index, str) else json.dumps(index)).encode()
    done = command("inspect", "some/model", expect=2, **environment_of(hub, tmp_path))
    last = done.stderr.strip().splitlines()[-1]  # behind the hub's own progress
    assert last.startswith("[fetch]") and message in last
