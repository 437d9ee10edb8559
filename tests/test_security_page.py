"""docs/security.md: each of its sentences has tests that exist, and some have theirs here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from s2l_nemo.algorithm.options import IMPORTANCE
from s2l_nemo.config.schema import Config, RewardsConfig
from s2l_nemo.rewards.pool import WorkerPool

ROOT = Path(__file__).resolve().parent.parent
ROWS = re.findall(
    r"^\| (?!shown)(\w.+) \| (.+) \|$", (ROOT / "docs/security.md").read_text(encoding="utf-8"), re.MULTILINE
)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LOCKS = ("requirements.lock", "requirements-engines.lock")


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


def pins(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_pin_every_package(name: str) -> None:
    assert pins(name)
    for line in pins(name):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+-]+", line), line
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in ("Makefile", "Dockerfile")]
    assert any(
        re.search(rf"--no-deps.*{re.escape(name)}", text) or f"-r {name}" in text or name in text for text in texts
    )


def test_the_page_says_whether_the_locks_have_hashes() -> None:
    with_hashes = all("--hash=sha256:" in line for name in LOCKS for line in pins(name))
    says_none = "They hold no hashes yet" in (ROOT / "docs/security.md").read_text(encoding="utf-8")
    assert with_hashes != says_none
