"""Every reader of outside files on a few hundred damaged inputs, and on all that were findings once.

`make fuzz` reads 100,000 a reader; docs/security.md says what is promised.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from s2l_nemo.errors import UserError
from tests.architecture import read_sources
from tests.fuzz.__main__ import finished
from tests.fuzz.guard import Guard
from tests.fuzz.mutate import damage, json_damage, mixed, safetensors_damage
from tests.fuzz.reader import Harness, Reader
from tests.fuzz.registry import READERS
from tests.fuzz.run import CORPUS, HUNG_S, corpus_of, fuzz, keep
from tests.fuzz.work import ROOT, input_of

SEED = 1


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m tests.fuzz --quick` has found: in a process of its own, whose children have no threads."""
    file = tmp_path_factory.mktemp("fuzz") / "figures.json"
    command = [sys.executable, "-m", "tests.fuzz", "--quick", "--seed", str(SEED), "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert file.is_file(), done.stderr
    return {one["reader"]: one for one in json.loads(file.read_text())["readers"]}


@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused_in_one_line(outcomes: dict[str, Any], name: str) -> None:
    found = outcomes[name]
    assert found["findings"] == [], f"python -m tests.fuzz {name} --seed {SEED} --inputs {READERS[name].quick}"
    assert found["inputs"] == READERS[name].quick


def test_the_corpus_is_of_readers_that_exist() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= READERS.keys()


# Functions whose first argument is what a stranger has written. A module that calls one has a reader, or a reason.
PARSERS = {
    "json.loads", "json.load", "parse_json", "yaml.load", "yaml.safe_load", "parquet.ParquetFile", "pq.ParquetFile",
    "parquet.read_table",
    "tarfile.open", "gzip.open", "zipfile.ZipFile", "np.load", "numpy.load", "torch.load", "OmegaConf.load",
    "csv.reader",
    "pickle.loads", "numpy.frombuffer", "np.frombuffer", "torch.frombuffer", "read_json_object", "read_yaml_mapping",
    "AutoTokenizer.from_pretrained", "load_plain", "read_plain", "unpickle", "read_records",
}  # fmt: skip
OTHERS = {
    "files": "what others call to read JSON",
    "models.formats.torch_pickle": "it writes",
    "models.checkpoints.to_hugging_face": "config.json that models.hf_config has read",
    "trainer.ranks": "arrays of other ranks of this run",
    "actor.export": "final.nemo of this run, to which it adds files",
    "engines.served.process": "the first line of a server that this process has started",
    "engines.served.server": "the line of the trainer that has started this server",
    "evaluation.run": "its own configuration, as text",
    "hub.commits": "an environment variable that a run sets for its own processes; pinned commits: run-versions",
    "hub.files": "through models.formats.safetensors_folder, which reads the same index before anything is used",
    "models.checkpoints.compare": "tensors that the readers of checkpoints have checked",
    "models.checkpoints.hugging_face": "through models.hf_config and safetensors",
    "models.checkpoints.nemo": "through nemo-tar",
    "platform.environment": "what a Python that the user has named prints",
    "platform.watchdog": "what other ranks of this run say of themselves",
    "records.plots": "summary.json that this run has just written",
    "probes.measuring.run": "its own configuration, as text",
    "data.golds": "a gold that data.rows has read",
    "rewards.worker": "the grader's own processes",
    "toy_worlds.publish": "family.json of the folder that it writes",
}


def test_every_module_that_parses_has_a_reader() -> None:
    parsing = {name for name, source in read_sources(ROOT).items() if any(map(is_parser, ast.walk(source)))}
    covered = {module for reader in READERS.values() for module in reader.covers}
    assert parsing - covered == OTHERS.keys(), "add a reader to tests/fuzz/readers (CONTRIBUTING.md)"
    assert covered <= read_sources(ROOT).keys()


def is_parser(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in PARSERS


# The fuzzer finds what it should


def reader_of(read: Callable[[bytes], object], folder_file: bool = False) -> Reader:
    def prepare(folder: Path) -> Harness:
        return Harness([b'{"a": [1, 2, {"b": "c"}]}'], read, folder / "x" if folder_file else None, json_damage)

    return Reader("scripted", (), prepare)


def raises(content: bytes) -> None:
    if b'"a"' not in content:
        raise KeyError("a")


def opens_outside(content: bytes) -> None:
    if b'"a"' not in content:
        (ROOT / "README.md").open("r+").close()


def reads_outside(content: bytes) -> None:
    if b'"a"' not in content:
        Path("/etc/passwd").open().close()


def starts_a_process(content: bytes) -> None:
    if b'"a"' not in content:
        os.system("true")


def talks(content: bytes) -> None:
    if b'"a"' not in content:
        raise UserError("x" * 5000 + "\x1b[2J")


def says_much(content: bytes) -> None:
    if b'"a"' not in content:
        error = UserError("")
        error.args = ("\x1b[2J",)
        raise error


def dies(content: bytes) -> None:
    if b'"a"' not in content:
        os.kill(os.getpid(), 9)


def takes_memory(content: bytes) -> None:
    if b'"a"' not in content:
        assert len(b"x" * (600 * 2**20))


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (raises, "KeyError: 'a'"),
        (opens_outside, "README.md' to write"),
        (reads_outside, "reads '/etc/passwd'"),
        (starts_a_process, "os.system"),
        (says_much, "a message that is no line"),
        (dies, "the process ends with -9"),
        (takes_memory, "takes more than 512 MiB"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_found(read: Callable[[bytes], object], what: str, tmp_path: Path) -> None:
    found = fuzz(reader_of(read), SEED, 40, corpus=tmp_path).findings
    assert found
    assert any(what in one.what for one in found), found


def test_a_long_message_of_a_stranger_is_cut_and_written_out() -> None:
    assert len(str(UserError("x" * 5000))) < 2100
    assert str(UserError("a\nb \x1b[2J\u200b \ud800")) == "a b \\x1b[2J\\u200b \\ud800"
    assert str(UserError("Ünï \u2264 1")) == "Ünï \u2264 1"
    assert fuzz(reader_of(talks), SEED, 40, corpus=Path("/nowhere")).findings == []


def test_an_input_that_computes_for_ever_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.fuzz.work.CPU_S", 0.3)

    def loops(content: bytes) -> None:
        while b'"a"' not in content:
            pass

    found = fuzz(reader_of(loops), SEED, 20, corpus=tmp_path).findings
    assert "computes for more than 0.3 s" in found[0].what
    assert HUNG_S > 10


def test_findings_are_kept_and_read_again(tmp_path: Path) -> None:
    found = fuzz(reader_of(raises), SEED, 40, corpus=tmp_path).findings
    keep(found, tmp_path)
    assert corpus_of("scripted", tmp_path) == [one.content for one in found]
    again = fuzz(reader_of(raises), SEED + 1, 1, corpus=tmp_path).findings
    assert again[0].number == -1


def test_a_seed_that_is_not_read_is_a_finding(tmp_path: Path) -> None:
    reader = Reader("scripted", (), lambda _: Harness([b"[]"], raises))
    assert "a seed is not read" in fuzz(reader, SEED, 5, corpus=tmp_path).findings[0].what


def test_the_same_number_gives_the_same_input() -> None:
    harness = Harness([b"abcdefgh" * 9, b"12345678"], lambda _: None, None, mixed(damage, safetensors_damage))
    first = [input_of(harness, "r", 3, number) for number in range(200)]
    assert first == [input_of(harness, "r", 3, number) for number in range(200)]
    assert len(set(first)) > 150
    assert first != [input_of(harness, "r", 4, number) for number in range(200)]


def test_figures_of_other_code_are_not_taken_for_these(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    identity = {"code": "a", "seed": 0, "asked": 5}
    assert finished(file, identity) == {}
    file.write_text(json.dumps({**identity, "readers": [{"reader": "csv"}]}))
    assert finished(file, identity) == {"csv": {"reader": "csv"}}
    assert finished(file, {**identity, "code": "b"}) == {}


def test_damage_never_fails() -> None:
    for number in range(2000):
        seed = Random(number).randbytes(number % 40)
        mixed(damage, json_damage, safetensors_damage)(Random(number), seed, [seed, b"{}"])


def test_a_guard_knows_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    guard = Guard(inside, ROOT)
    with guard.watch(may_write=True) as seen:
        (inside / "a").write_text("1")
        (inside / "a").rename(inside / "b")
    assert seen == []
    with guard.watch(may_write=False) as seen:
        (inside / "b").unlink()
    assert len(seen) == 1
    with guard.watch(may_write=True) as seen:
        (inside / ".." / "outside").write_text("1")
        (inside / "link").symlink_to(tmp_path)
        (inside / "link" / "outside").unlink()
    assert len(seen) >= 2
