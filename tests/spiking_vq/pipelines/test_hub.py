"""Repositories of the Hugging Face hub: a local server answers as the hub does, and nothing else is asked."""

import hashlib
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError
from spiking_vq.pipelines import hub, zoo
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")

COMMIT, OTHER = "1" * 40, "2" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, offline, and a working folder without any model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def pipeline(latent_model, absorbing_config):
    return LatentPipeline(latent_model, absorbing_config)


def put_in_cache(cache, pipeline, repository="me/digits"):
    """What huggingface_hub leaves of a repository that it has downloaded."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    pipeline.save_pretrained(folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    for name in ("main", "v1"):
        (folder / "refs" / name).write_text(COMMIT)


class Hub(BaseHTTPRequestHandler):
    """Answers of the hub to requests for a file; `files` and `refusals` are by the name of the repository."""

    files, refusals = {}, {}

    def do_HEAD(self):
        owner, name, _, revision, _ = self.path.strip("/").split("/", 4)
        status, code = self.refusals.get(name, (200, None))
        if revision not in ("main", "v1", COMMIT):
            status, code = 404, "RevisionNotFound"
        content = self.files.get(name, b"")
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        return content if status == 200 else b""

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def online(monkeypatch):
    """A server in the place of the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "refusals", {})
    huggingface_hub.close_session()
    yield Hub
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


# ---------------------------------------------------------------- loading


def test_a_model_is_downloaded_once(online, pipeline, tmp_path, monkeypatch):
    file = pipeline.save_pretrained(tmp_path / "saved") / "model.safetensors"
    online.files["digits"] = file.read_bytes()
    expected = pipeline.sample(2).images
    assert torch.equal(load("me/digits").sample(2).images, expected)
    assert torch.equal(load("me/digits", revision="v1").sample(2).images, expected)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(load("me/digits").sample(2).images, expected)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((404, "RepoNotFound"), "there is none at http.*/me/digits, or a private one. Check the name, or log in with"),
        ((401, None), ".*401.*. If it is private, log in with `hf auth login`, or set HF_TOKEN"),
        ((403, "GatedRepo"), "it is gated. Accept its terms on http.*/me/digits, and log in"),
        ((404, "EntryNotFound"), "it has no model.safetensors, so it is no model that"),
    ],
)
def test_what_the_hub_refuses(online, refusal, told):
    online.refusals["digits"] = refusal
    with pytest.raises(InputError, match=f"no path me/digits here, and the repository me/digits cannot .*: {told}"):
        load("me/digits")


def test_a_revision_that_there_is_not(online):
    with pytest.raises(InputError, match="it has no revision v7"):
        load("me/digits", revision="v7")


def test_nothing_is_unpickled(online, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: pytest.fail("unpickled"))
    torch.save(pipeline.model.state_dict(), tmp_path / "pickled")
    for content, told in (
        ((tmp_path / "pickled").read_bytes(), "is no safetensors file: nothing else is read"),
        (b"\x80\x04K\x01.", "is not a whole model.safetensors"),
    ):
        online.files["digits"] = content
        with pytest.raises(InputError, match=told):
            load("me/digits")
        shutil.rmtree(tmp_path / "cache")


def test_a_model_in_the_cache_is_loaded_offline(cache, pipeline):
    put_in_cache(cache, pipeline)
    expected = pipeline.sample(2).images
    for settings in ({}, {"revision": "v1"}, {"revision": COMMIT}):
        assert torch.equal(load("me/digits", **settings).sample(2).images, expected)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set, and its model.safetensors is not in the cache"):
        load("me/digits", revision=OTHER)


def test_offline_and_not_in_the_cache(cache):
    with pytest.raises(
        InputError, match=f"me/digits cannot be loaded.*HF_HUB_OFFLINE is set.*not in the cache, {cache}"
    ):
        load("me/digits")


@pytest.mark.parametrize("name", ["me/di--gits", "me/digits.git", "me/digits."])
def test_names_that_the_hub_does_not_allow(name):
    with pytest.raises(InputError, match="this is no name of a repository"):
        load(name)


def test_without_huggingface_hub(monkeypatch, pipeline):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    for call in (lambda: load("me/digits"), lambda: pipeline.push_to_hub("me/digits")):
        with pytest.raises(InputError, match=r"without huggingface_hub: pip install 'spiking_vq\[hub\]'"):
            call()


def test_bugs_are_not_hidden(monkeypatch):
    def fail(*arguments, **settings):
        raise TypeError("a bug")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(TypeError, match="a bug"):
        load("me/digits")


# ---------------------------------------------------------------- path or repository


def test_a_path_comes_before_a_repository(cache, pipeline, tmp_path):
    put_in_cache(cache, pipeline)
    for name in ("me/digits", "me/empty"):
        (tmp_path / name).mkdir(parents=True)
    pipeline.model.vq_svae.quantizer.codebook.data.add_(1)
    save_model("me/digits/model.safetensors", pipeline.model, pipeline.config)
    assert torch.equal(load("me/digits").sample(2).images, pipeline.sample(2).images)
    with pytest.raises(InputError, match="no model file at me/empty"):
        load("me/empty")
    with pytest.raises(InputError, match="revision must be left out: me/digits is no repository of the hub; got 'v1'"):
        load("me/digits", revision="v1")
    with pytest.raises(InputError, match="revision must be left out: mnist is no repository"):
        load("mnist", revision="v1")


@pytest.mark.parametrize(
    "word",
    ["runs/mnits", "digits", "a/b/c", "/a/b", "./a", "~/a", "../a", "me/a.safetensors", "me/a.ckpt", Path("a/b")],
)
def test_words_that_are_not_repositories(word, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(zoo, "download", lambda *arguments: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no model file at .*owner/name of a repository on the Hugging Face hub"):
        load(word)


def test_a_revision_says_that_it_is_a_repository(cache, pipeline, tmp_path):
    put_in_cache(cache, pipeline)
    (tmp_path / "me").mkdir()
    with pytest.raises(InputError, match="no model file at me/digits"):
        load("me/digits")
    assert load("me/digits", revision="main").config == pipeline.config


@pytest.mark.slow
def test_commands_take_a_repository(pipeline, tmp_path):
    put_in_cache(tmp_path / "home/hub", pipeline)
    root = str(Path(zoo.__file__).parents[2])
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}

    def sample(name):
        command = [sys.executable, "-m", "stages", "sample", name, "n=2"]
        return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)

    done = sample("me/digits")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").rglob("0*.png"))) == 2
    refused = sample("me/letters")
    assert refused.returncode == 2
    assert "HF_HUB_OFFLINE is set, and its model.safetensors is not in the cache" in refused.stderr


# ---------------------------------------------------------------- pushing


@pytest.fixture
def pushed(monkeypatch, tmp_path):
    """Calls of huggingface_hub's client, in order; what it would upload is kept in a folder."""
    calls = []

    class Client:
        def __init__(self, **settings):
            calls.append(("login", settings))

        def create_repo(self, repository, **settings):
            calls.append(("create", repository, settings))

        def upload_folder(self, folder_path, **settings):
            shutil.copytree(folder_path, tmp_path / "uploaded")
            calls.append(("upload", settings))
            pr_url = "https://hub/pr" if settings["create_pr"] else None
            return SimpleNamespace(commit_url="https://hub/commit", pr_url=pr_url)

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    return calls


def test_a_push_is_a_saved_folder_in_one_commit(pushed, pipeline, tmp_path):
    assert pipeline.push_to_hub("me/digits") == "https://hub/commit"
    upload = {"repo_id": "me/digits", "commit_message": "Upload a spiking_vq model", "create_pr": False}
    assert pushed == [
        ("login", {"token": None, "library_name": "spiking_vq"}),
        ("create", "me/digits", {"private": None, "exist_ok": True}),
        ("upload", upload),
    ]
    files = sorted(path.name for path in (tmp_path / "uploaded").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert 'spiking_vq.load("me/digits")' in (tmp_path / "uploaded/README.md").read_text()
    assert torch.equal(load(tmp_path / "uploaded").sample(2).images, pipeline.sample(2).images)


def test_options_of_a_push(pushed, pipeline):
    made = pipeline.push_to_hub("me/digits", private=True, token="secret", commit_message="Digits", create_pr=True)
    assert made == "https://hub/pr"
    assert pushed[0][1]["token"] == "secret"
    assert pushed[1][2]["private"]
    assert (pushed[2][1]["commit_message"], pushed[2][1]["create_pr"]) == ("Digits", True)


def test_a_push_that_fails(pipeline):
    with pytest.raises(InputError, match="cannot push to me/digits: HF_HUB_OFFLINE is set. Unset it"):
        pipeline.push_to_hub("me/digits")
