"""docs/security.md: each of its sentences has tests that exist, and some have theirs here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from s2l_nemo.algorithm.options import IMPORTANCE
from s2l_nemo.config.schema import Config, RewardsConfig
from s2l_nemo.rewards.pool import WorkerPool
from tools import image_check

ROOT = Path(__file__).resolve().parent.parent
ROWS = re.findall(
    r"^\| (?!shown)(\w.+) \| (.+) \|$", (ROOT / "docs/security.md").read_text(encoding="utf-8"), re.MULTILINE
)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LOCKS = ("requirements", "requirements-engines")


def names_in(file: str) -> set[str]:
    """The names of its tests, those of classes among them."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("sentence", "tests"), ROWS, ids=lambda text: text[:40])
def test_every_sentence_names_tests_that_exist(sentence: str, tests: str) -> None:
    named = NAMED.findall(tests)
    assert named, sentence
    assert ", ".join(f"`{file}::{name}`" for file, name in named) == tests
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"


def test_the_page_is_read() -> None:
    assert len(ROWS) > 25


# What runs what it reads

FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "os.system", "os.popen", "yaml.unsafe_load",
             "yaml.full_load", "marshal.loads", "shelve.open", "joblib.load", "compile"}  # fmt: skip
SOURCES = [path for folder in ("s2l_nemo", "recipes", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]


def unsafe(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN:
                yield ast.unparse(node.func)
            for keyword in node.keywords:
                told = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and told is not False:
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def test_the_source_holds_no_call_that_runs_what_it_reads() -> None:
    assert {str(path): found for path in SOURCES if (found := list(unsafe(path.read_text(encoding="utf-8"))))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "pickle.loads(x)",
        "run(x, shell=True)",
        "load(x, trust_remote_code=y)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_such_a_call_would_be_found(code: str) -> None:
    assert list(unsafe(code))


# What is trusted


def test_a_reward_function_may_do_what_its_user_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from pathlib import Path",
        "def score(question, response, gold):",
        "    Path(gold).write_text('written')",
        "    return 1.0",
    )
    (tmp_path / "writing_reward.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    pool = WorkerPool(RewardsConfig(workers=1), "writing_reward:score")
    (outcome,) = pool.run([("", "", str(tmp_path / "file"))])
    pool.close()
    assert outcome.value == 1
    assert (tmp_path / "file").read_text() == "written"


def test_an_import_path_of_a_configuration_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nRULE = 1\n"
    (tmp_path / "imported_rule.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError):
        _ = IMPORTANCE["imported_rule:RULE"]  # refused, but only after it was imported
    assert (tmp_path / "ran").exists()


def test_ranks_send_each_other_objects() -> None:
    """Objects between ranks are pickled by torch."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "s2l_nemo" / "trainer").glob("*.py"))
    assert re.search(r"(broadcast_object_list|gather_object|all_gather_object)", text)


def test_the_presets_send_nothing() -> None:
    assert OmegaConf.structured(Config).logging.wandb_project is None
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert "wandb_project" not in path.read_text(encoding="utf-8")


# Supply chain


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_pin_every_package(name: str) -> None:
    locked = image_check.pins(ROOT / f"{name}.lock")
    assert all(pin == line for pin, line in locked.items())  # the hashes are in the file beside it
    hashed = image_check.pins(ROOT / f"{name}.hashes")
    assert {canonical(pin) for pin in locked if not pin.startswith("torch==")} == {canonical(pin) for pin in hashed}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_but_torch_has_hashes(name: str) -> None:
    for pin, line in image_check.pins(ROOT / f"{name}.hashes").items():
        assert "--hash=sha256:" in line, pin


def canonical(pin: str) -> str:
    """NAME==VERSION, the name as package indexes write it."""
    name, _, version = pin.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def installing(*arguments: str) -> list[str]:
    """The lines with which `make setup` would install the lock."""
    command = ["make", "-n", "-W", "requirements.lock", "setup", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "HASHES")}  # of `make test`
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=own)
    return [line.partition("install ")[2] for line in done.stdout.splitlines() if " install " in line]


def test_setup_installs_the_lock_by_its_hashes_first() -> None:
    first, *others = installing()
    assert first == "--no-deps --require-hashes -r requirements.hashes"
    assert "-c requirements.lock torch" in others
    assert installing("HASHES=no") == ["--no-deps -r requirements.lock", *others]


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    """A wheel of the right name and version, as an index might serve it that somebody has broken into."""
    pin, line = next(item for item in image_check.pins(ROOT / "requirements.hashes").items() if "typeguard" in item[0])
    name, _, version = pin.partition("==")
    with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    served = [sys.executable, "-m", "pip", "download", "--no-index", "-f", str(tmp_path), "-d", str(tmp_path / "out")]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    for text, refused in ((line, True), (pin, False)):
        (tmp_path / "lock").write_text(text)
        whole = [*served, "--no-deps", *(["--require-hashes"] if refused else []), "-r", str(tmp_path / "lock")]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode != 0) is refused, done.stderr
        assert ("DO NOT MATCH THE HASHES" in done.stderr) is refused
