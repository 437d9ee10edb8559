"""Keys of sampling and importing a store: consistent before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.load import load_values
from s2l_nemo.config.schema import Config
from s2l_nemo.config.store import ImportConfig, SampleConfig, check_import_config, check_sample_config, shard_of
from s2l_nemo.errors import UserError
from tests.commands import ROOT


def load(*arguments: str) -> SampleConfig:
    cfg = load_values(list(arguments), SampleConfig, "usage")
    check_sample_config(cfg)
    return cfg


def test_defaults_are_consistent() -> None:
    cfg = load()
    assert (cfg.samples, cfg.seed, cfg.explorer, shard_of(cfg.shard)) == (16, 1, 1, (1, 1))


def test_keys_are_called_and_default_as_in_a_training_run() -> None:
    training = all_keys(Config)
    shared = [
        name for name in all_keys(SampleConfig) if name.partition(".")[0] in ("rollout", "engine", "data", "rewards")
    ]
    assert len(shared) > 30
    for name in shared:
        assert all_keys(SampleConfig)[name].default == training[name].default, name


@pytest.mark.parametrize(("text", "shard"), [("1/1", (1, 1)), ("3/8", (3, 8)), ("12/12", (12, 12))])
def test_shards(text: str, shard: tuple[int, int]) -> None:
    assert shard_of(text) == shard


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5", " 1/3", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UserError, match="give the number of this job and of all jobs"):
        shard_of(text)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["samples=0"], "samples=0: must be at least 1"),
        (["explorer=0"], "explorer=0: must be at least 1"),
        (["shard=9/8"], "shard=9/8"),
        (["rollout.temperature=0"], "rollout.temperature=0.0: must be at least 0.001"),
        (["output=''"], "output=: must be the path of a folder"),
        (["engine.replicas_per_node=2"], "start one job for each with shard=1/N to shard=N/N"),
        (["engine.placement=separate"], "there is no trainer and no learner here"),
        (["engine.kind=server", "engine.learner_devices='0'"], "there is no trainer and no learner here"),
        (["engine.explorer_devices='0'"], "or CUDA_VISIBLE_DEVICES to an engine in this process"),
        (["engine.kind=vllm", "engine.explorer_devices='0,1'"], "give servers 1 GPUs"),
        (["engine.python=/bin/python"], "only servers have an interpreter"),
        (["engine.kind=tensorrt_llm", "rollout.top_p=0.9"], "rollout.top_p=0.9 with engine.kind=tensorrt_llm"),
        (["rollout.explorer_filter=none"], "unknown key rollout.explorer_filter"),
    ],
)
def test_mistakes(arguments: list[str], fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_servers_may_have_devices_and_an_interpreter() -> None:
    devices = "engine.explorer_devices='4,5'"
    load("engine.kind=vllm", "engine.tensor_parallel_size=2", devices, "engine.python=/bin/python")


def test_an_import_needs_its_file() -> None:
    with pytest.raises(UserError, match="input=null: give the JSONL file"):
        check_import_config(load_values([], ImportConfig, ""))
    check_import_config(load_values(["input=a.jsonl"], ImportConfig, ""))


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("recipes/sample_explorer.py", "rollout.temperature=1.0"),
        ("tools/import_store.py", "rollout.temperature=1.0"),
        ("tools/store_of_run.py", "source=learner"),
    ],
)
def test_help_imports_nothing_heavy(command: str, key: str) -> None:
    program = (
        f"import sys, runpy\nsys.argv = ['{command}', '--help']\n"
        f"try:\n    runpy.run_path('{command}', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'datasets', 'sympy', 'pyarrow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert key in result.stdout
