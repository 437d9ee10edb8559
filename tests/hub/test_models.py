"""Models by name, from a hub on the loopback: what is downloaded, kept, pinned and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir

from s2l_nemo.errors import UserError
from s2l_nemo.hub import snapshots
from s2l_nemo.hub.commits import VARIABLE, commits, pin
from s2l_nemo.hub.faults import HubUnreachableError, within
from s2l_nemo.hub.files import model_folder
from s2l_nemo.models.open import open_model
from tests.commands import ROOT, run_process
from tests.hub.stand_in import StandIn

NAME = "Qwen/Tiny"
CONFIG = {
    "model_type": "qwen3", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 96, "max_position_embeddings": 256,
    "rope_theta": 1e6, "rms_norm_eps": 1e-5,
}  # fmt: skip
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
SMALL = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}", "merges.txt": b"a b"}
ONE = SMALL | {"model.safetensors": b"weights" * 1000}
REST = {
    "model.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "model.pt": b"pickle",
    "original/config.json": b"{}", "README.md": b"# Tiny", "onnx/model.onnx": b"", "tokenizer.py": b"",
    "consolidated.safetensors": b"again",
}  # fmt: skip
TAKE = f"from s2l_nemo.hub.files import model_folder; print(model_folder('model.path', {NAME!r}))"


def take(name: str = NAME, *, weights: bool = True) -> Path:
    return Path(model_folder("model.path", name, weights=weights))


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def again(monkeypatch: pytest.MonkeyPatch, hub: StandIn, *, offline: bool = False) -> None:
    """As in a process of its own: nothing is pinned, and the hub's record of questions is empty."""
    monkeypatch.setenv(VARIABLE, "{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    hub.asked.clear()


def refusal(name: str = NAME) -> str:
    with pytest.raises(UserError) as error:
        take(name)
    assert "\n" not in str(error.value)
    assert "hf_secret" not in str(error.value)
    return str(error.value)


def test_a_model_is_downloaded_without_code_and_pickles_and_then_found(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commit,) = hub.add(f"models/{NAME}", ONE | REST)
    folder = take()
    assert names(folder) == set(ONE) == set(hub.fetched())
    assert (folder / "model.safetensors").read_bytes() == ONE["model.safetensors"]
    assert commits() == {f"models/{NAME}@main": commit}
    again(monkeypatch, hub)
    assert take() == folder
    assert [path for _, path, _ in hub.asked] == [f"/api/models/{NAME}/revision/main"]
    scan_cache_dir(constants.HF_HUB_CACHE)  # the cache is still the one of huggingface_hub
    assert len(scan_cache_dir(constants.HF_HUB_CACHE).repos) == 1
    assert not scan_cache_dir(constants.HF_HUB_CACHE).warnings


def test_an_index_says_which_safetensors_are_the_weights(hub: StandIn) -> None:
    shards = dict.fromkeys(INDEX["weight_map"].values(), b"w")
    hub.add(f"models/{NAME}", SMALL | shards | REST | {"model.safetensors.index.json": json.dumps(INDEX).encode()})
    assert names(take()) == {*SMALL, *shards, "model.safetensors.index.json"}


@pytest.mark.parametrize(
    "index", [b"[]", b"{", b'{"weight_map": 3}', b'{"weight_map": {"a": ["b"]}}', b'{"weight_map": {"a": 1, "b": "c"}}']
)
def test_an_index_that_is_none(hub: StandIn, index: bytes) -> None:
    hub.add(f"models/{NAME}", SMALL | {"model.safetensors.index.json": index})
    assert "is no index of weights" in refusal()


@pytest.mark.parametrize("file", ["../../x.safetensors", "pytorch_model.bin", "onnx/model.onnx", "absent.safetensors"])
def test_an_index_that_names_other_files(hub: StandIn, file: str) -> None:
    index = json.dumps({"weight_map": {"a": file}}).encode()
    hub.add(f"models/{NAME}", SMALL | REST | {"model.safetensors.index.json": index})
    assert file in refusal()
    assert not set(hub.fetched()) & {*REST, file}


def test_a_model_without_safetensors_is_refused(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", SMALL | REST)
    assert f"{NAME} has no model.safetensors, and other weights than safetensors are not read" in refusal()
    assert set(hub.fetched()) <= set(SMALL)


def test_revisions(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = hub.add(f"models/{NAME}", ONE, ONE | {"merges.txt": b"new"})
    hub.repositories[f"models/{NAME}"].refs["refs/pr/1"] = old
    assert (take() / "merges.txt").read_bytes() == b"new"
    for revision in (old, "refs/pr/1"):
        folder = take(f"{NAME}@{revision}")
        assert folder.name == old
        assert (folder / "merges.txt").read_bytes() == b"a b"
    assert commits() == {
        f"models/{NAME}@main": new,
        f"models/{NAME}@{old}": old,
        f"models/{NAME}@refs/pr/1": old,
    }
    assert "has no revision v9" in refusal(f"{NAME}@v9")
    again(monkeypatch, hub)
    assert take(f"{NAME}@{old}") == folder
    assert hub.asked == []  # a commit that is complete needs no network


def test_a_pinned_commit_is_taken_after_the_branch_has_moved(hub: StandIn) -> None:
    old, new = hub.add(f"models/{NAME}", ONE, ONE | {"merges.txt": b"new"})
    pin({f"models/{NAME}@main": old})
    assert take().name == old
    hub.repositories[f"models/{NAME}"].commits.pop(old)
    hub.asked.clear()
    assert take().name == old
    assert hub.asked == []
    pin({f"models/{NAME}@main": "0" * 40})
    assert "has no revision main" in refusal()
    assert new not in commits().values()


def test_offline_takes_what_is_there(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(f"models/{NAME}", ONE)
    folder = take()
    again(monkeypatch, hub, offline=True)
    assert take() == folder
    assert hub.asked == []
    assert commits() == {f"models/{NAME}@main": folder.name}
    line = refusal("Qwen/Other@v2")
    assert line.startswith("model.path=Qwen/Other@v2 is no file or folder here, HF_HUB_OFFLINE is set")
    assert f"the cache {constants.HF_HUB_CACHE} does not hold its revision v2" in line


def test_offline_with_a_cache_that_another_program_has_filled(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(f"models/{NAME}", ONE | REST)
    from huggingface_hub import snapshot_download

    folder = snapshot_download(NAME, endpoint=hub.endpoint, cache_dir=constants.HF_HUB_CACHE)
    again(monkeypatch, hub, offline=True)
    assert str(take()) == folder
    Path(folder, "model.safetensors").unlink()
    assert "HF_HUB_OFFLINE is set, and the cache" in (line := refusal())
    assert "has no model.safetensors of commit" in line
    blobs = Path(constants.HF_HUB_CACHE, "models--Qwen--Tiny", "blobs")
    (blobs / "abc.incomplete").touch()
    assert "does not hold its revision main" in refusal()


def test_a_download_that_was_cut_off_is_never_taken_as_complete(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.cut_after = 500
    assert f"{hub.endpoint} cannot be reached" in (line := refusal())
    assert "lacks model.safetensors of commit" in line
    again(monkeypatch, hub, offline=True)
    assert "HF_HUB_OFFLINE is set, and the cache" in (line := refusal())
    assert "lacks model.safetensors of commit" in line
    again(monkeypatch, hub)
    hub.cut_after = None
    assert (take() / "model.safetensors").read_bytes() == ONE["model.safetensors"]


def test_a_process_that_is_killed_leaves_nothing_that_counts_as_complete(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.cut_after, hub.stalls = 500, threading.Event()
    variables = os.environ | {"HF_HUB_CACHE": constants.HF_HUB_CACHE}
    process = subprocess.Popen([sys.executable, "-c", TAKE], cwd=ROOT, env=variables)
    assert hub.stalls.wait(timeout=300)
    process.kill()
    process.wait(timeout=300)
    hub.cut_after = hub.stalls = None
    again(monkeypatch, hub, offline=True)
    assert "lacks model.safetensors of commit" in refusal()
    again(monkeypatch, hub)
    assert (take() / "model.safetensors").read_bytes() == ONE["model.safetensors"]


def test_a_file_that_has_lost_its_end_is_downloaded_again(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(f"models/{NAME}", ONE)
    weights = take() / "model.safetensors"
    os.truncate(weights.resolve(), 10)
    again(monkeypatch, hub, offline=True)
    assert "lacks model.safetensors" in refusal()
    again(monkeypatch, hub)
    assert (take() / "model.safetensors").read_bytes() == ONE["model.safetensors"]


@pytest.mark.parametrize("file", ["../evil.json", "../../../evil.safetensors", "/tmp/evil.json", "a/../../evil.json"])
def test_a_repository_with_a_path_that_leaves_the_cache_is_refused_as_a_whole(
    hub: StandIn, tmp_path: Path, file: str
) -> None:
    hub.add(f"models/{NAME}", ONE | {file: b"{}"})
    assert f"lists {file!r}, which would leave the cache: nothing of it is taken" in refusal()
    assert hub.fetched() == []
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("etag", ["../../../../evil", "/tmp/evil", "..", ".", "a/b", ""])
def test_a_name_that_the_hub_gives_a_file_in_the_cache_is_checked_too(hub: StandIn, tmp_path: Path, etag: str) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.headers = {"ETag": f'"{etag}"'}
    assert "would leave its place in the cache" in refusal()
    assert not list(tmp_path.rglob("*evil*"))


def test_another_commit_than_the_one_asked_for_is_refused(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.headers = {"X-Repo-Commit": "../" * 5}
    assert "would leave its place in the cache" in refusal()


@pytest.mark.parametrize("sha", ['"../../x"', '"main"', "null", "7"])
def test_what_is_no_commit_is_refused(hub: StandIn, tmp_path: Path, sha: str) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.body = b'{"id": "Qwen/Tiny", "siblings": [], "sha": ' + sha.encode() + b"}"
    assert "which is none" in refusal()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"id": 3, "siblings": 7}', b"\xff", b""])
def test_what_is_no_hub(hub: StandIn, body: bytes) -> None:
    hub.add(f"models/{NAME}", ONE)
    hub.body = body
    assert f"{hub.endpoint} does not answer as the Hugging Face hub does" in refusal()


@pytest.mark.parametrize("size", ['"3"', "-1", "0.5", "[]"])
def test_what_is_no_size(hub: StandIn, size: str) -> None:
    hub.add(f"models/{NAME}", ONE)
    file = '{"rfilename": "config.json", "size": ' + size + "}"
    hub.body = ('{"id": "Qwen/Tiny", "sha": "' + "a" * 40 + '", "siblings": [' + file + "]}").encode()
    assert "lists 'config.json' with the size" in refusal()


def test_a_damaged_listing_is_named(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", ONE)
    (listing,) = (take().parents[1] / "listings").iterdir()
    for damaged in ("{", "[1]", '"ab"', "3", "[[1, 2]]", "[" * 100_000):
        listing.write_text(damaged)
        assert f"{listing} is damaged: remove it" in refusal()
    listing.write_text('{"../x.json": 2}')
    assert "would leave the cache" in refusal()


def test_the_token_opens_a_private_model_and_goes_nowhere_else(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(f"models/{NAME}", ONE, token="hf_secret")
    take()
    for _, path, authorization in hub.asked:
        assert authorization == (None if "/stored/" in path else "Bearer hf_secret")
    assert any("/stored/" in path for _, path, _ in hub.asked)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    again(monkeypatch, hub)
    assert f"{hub.endpoint} has no model {NAME}, or hides it" in (line := refusal())
    assert "HF_TOKEN" in line
    assert "hf_other" not in line


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "refuses it (HTTP 403): set HF_TOKEN"), (429, "refuses it (HTTP 429): wait"), (503, "is down (HTTP 503)")],
)
def test_a_hub_that_refuses_or_fails(hub: StandIn, status: int, words: str) -> None:
    hub.status = status
    assert words in refusal()


def test_a_model_with_terms_to_accept(hub: StandIn) -> None:
    hub.status, hub.code = 403, "GatedRepo"
    assert "gives it only to those who accepted its terms: do so, and set HF_TOKEN" in refusal()


def test_a_hub_that_is_silent_is_asked_once(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ANSWER_S", 0.1)
    hub.silent_s = 2.0
    assert f"{hub.endpoint} cannot be reached (" in refusal()
    assert refusal("Qwen/Other").startswith("model.path=Qwen/Other is no file or folder here")
    assert not [path for _, path, _ in hub.asked if "Qwen/Other" in path]


def test_within_passes_results_and_exceptions_on() -> None:
    assert within(60, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match=r"^no answer in 0\.01 s$"):
        within(0.01, threading.Event().wait)


def test_without_network_each_name_is_one_line(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add(f"models/{NAME}", ONE)[0]
    take(weights=False)
    again(monkeypatch, hub)
    monkeypatch.setenv("HF_ENDPOINT", "http://name:word@127.0.0.1:9")  # the discard port: nothing listens
    with pytest.raises(HubUnreachableError) as error:
        take()
    assert str(error.value) == (
        f"model.path={NAME} is no file or folder here, http://127.0.0.1:9 cannot be reached (Connection refused), and "
        f"the cache {constants.HF_HUB_CACHE} has commit {commit[:12]} of it: HF_HUB_OFFLINE=1 takes that"
    )
    assert "does not hold its revision main: download it where there is a network" in refusal("Qwen/Other")


def test_a_model_of_the_hub_is_opened_as_far_as_it_is_used(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", ONE | REST)
    model = open_model("model.path", NAME)
    assert model.shape.hidden == 32
    assert model.is_hugging_face
    assert hub.fetched() == ["config.json"]
    with pytest.raises(UserError, match="cannot load the tokenizer"):  # it is {}
        _ = model.tokenizer
    assert set(hub.fetched()) == set(SMALL)
    model.fetch()
    assert set(hub.fetched()) == set(ONE)
    assert len(hub.fetched()) == len(ONE)


def test_several_processes_download_once(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", ONE)
    variables = os.environ | {"HF_HUB_CACHE": constants.HF_HUB_CACHE}
    ranks = [
        subprocess.Popen([sys.executable, "-c", TAKE], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {rank.communicate(timeout=300)[0].strip() for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert folders == {str(take())}
    assert sorted(hub.fetched()) == sorted(ONE)


def test_a_process_that_this_one_starts_takes_the_same_commit(hub: StandIn) -> None:
    hub.add(f"models/{NAME}", ONE)
    folder = take()
    hub.add(f"models/{NAME}", {}, {}, ONE)  # main has moved
    done = run_process("-c", TAKE, environment={"HF_HUB_CACHE": constants.HF_HUB_CACHE})
    assert (done.returncode, done.stdout.strip()) == (0, str(folder))
