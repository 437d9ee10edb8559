"""Reading conf/ and the command line: everything a user can get wrong ends in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.keys import all_keys, nearest_key
from s2l_nemo.config.load import help_text, load_config, presets, resolved_yaml
from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import INSTRUCTIONS
from s2l_nemo.errors import UserError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*") if path.is_file())
FILES = [file for file in FILES if file.parent.name not in ("evaluate", "store", "toy")]
CHOICES = [f"{file.parent}={file.name}" for file in FILES if file.parent.name not in ("", "experiment")]
EXPERIMENTS = [file.name for file in FILES if file.parent.name == "experiment"]  # see test_experiments.py


def error_of(argv: list[str], conf_dir: Path = CONF) -> str:
    with pytest.raises(UserError) as caught:
        load_config(argv, conf_dir)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    shutil.copytree(CONF, tmp_path / "conf")
    return tmp_path / "conf"


def test_default_is_the_tiny_preset() -> None:
    cfg = load_config([], CONF)
    assert (cfg.trainer.devices, cfg.model.tensor_model_parallel_size) == (2, 1)
    assert (cfg.algorithm.steps, cfg.algorithm.prompts_per_step, cfg.algorithm.group_size) == (40, 32, 16)
    assert cfg.algorithm.schedule.name == "linear"
    assert cfg.model.path == "models/tiny/learner"


def test_the_preset_with_tensor_parallelism_differs_in_nothing_else() -> None:
    cfg = load_config(["--config-name", "tiny_tp2"], CONF)
    assert cfg.model.tensor_model_parallel_size == 2
    cfg.model.tensor_model_parallel_size = 1
    assert cfg == load_config([], CONF)
    assert load_config(["--config-name", "tiny_tp2", "experiment=grpo"], CONF).explorer.path is None


def test_the_paper_preset_asks_as_the_evaluation_does() -> None:
    """Its figures are in test_experiments.py. That it asks for what the reward reads is not from the paper."""
    cfg = load_config(["--config-name", "paper"], CONF)
    assert cfg.data.instruction == INSTRUCTIONS[AnswerKind.math]
    assert cfg.rewards.answer == AnswerKind.math
    assert cfg.checkpoint.keep == 0  # Figures 4 to 7 evaluate every step


@pytest.mark.parametrize("preset", sorted(presets(CONF)))
@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_in_conf_loads_and_is_consistent(preset: str, choice: str) -> None:
    check_config(load_config(["--config-name", preset, choice], CONF))


def test_every_experiment_differs_from_the_others() -> None:
    """`s2l` is the preset itself."""
    seen = [OmegaConf.to_container(load_config(["run.dir=x", f"experiment={e}"], CONF)) for e in EXPERIMENTS]
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])
    assert load_config(["experiment=s2l"], CONF) == load_config([], CONF) == load_config(["experiment=null"], CONF)


def test_an_experiment_has_figures_of_its_own_at_toy_scale() -> None:
    assert load_config(["experiment=t_mix_5"], CONF).algorithm.schedule.t_mix == 12
    assert load_config(["--config-name", "tiny_tp2", "+experiment=t_mix_5"], CONF).algorithm.schedule.t_mix == 12
    assert load_config(["--config-name", "paper", "experiment=t_mix_5"], CONF).algorithm.schedule.t_mix == 5
    assert "experiment=toy/t_mix_5 is unknown" in error_of(["experiment=toy/t_mix_5"])


def test_hardware_of_80_gb_is_what_the_paper_runs_on_there() -> None:
    cfg = load_config(["--config-name", "paper", "hardware=h100_80gb", "engine.memory_fraction=0.3"], CONF)
    engine = cfg.engine
    assert (cfg.trainer.devices, cfg.model.tensor_model_parallel_size, cfg.rollout.max_batch_rows) == (8, 2, 256)
    assert (engine.kind, engine.python) == ("tensorrt_llm", "/opt/engines/bin/python")
    assert (engine.replicas_per_node, engine.tensor_parallel_size, engine.memory_fraction) == (4, 2, 0.3)
    assert cfg.algorithm.prompts_per_step == 1024


def test_overrides_win_over_files_and_the_last_wins() -> None:
    cfg = load_config(
        ["algorithm.steps=3", "--config-name", "paper", "experiment=t_mix_5", "algorithm.steps=7", "+run.seed=4"], CONF
    )
    assert (cfg.algorithm.steps, cfg.algorithm.schedule.t_mix, cfg.run.seed) == (7, 5, 4)
    assert load_config(["experiment=null", "run.dir=a/b"], CONF).run.dir == "a/b"
    assert load_config(["algorithm={steps: 5, schedule: {name: none}}"], CONF).algorithm.steps == 5


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("model.optim.lr=1e-6", "model.optim.lr", 1e-6),
        ("model.optim.lr='1e-6'", "model.optim.lr", 1e-6),
        ("algorithm.kl_coef=0", "algorithm.kl_coef", 0.0),
        ("algorithm.importance=behavior", "algorithm.importance", "behavior"),
        ("algorithm.schedule.t_mix=null", "algorithm.schedule.t_mix", None),
        ("algorithm.kl_on_explorer=no", "algorithm.kl_on_explorer", False),
        ("run.dir=runs/${run.seed}", "run.dir", "runs/1"),
        ("data.reasoning_gym.params.max_digits=5", "data.reasoning_gym.params.max_digits", 5),
        ("data.reasoning_gym.params={a: {b: [1, 2]}}", "data.reasoning_gym.params.a.b", [1, 2]),
    ],
)
def test_values_are_typed(argument: str, key: str, expected: object) -> None:
    value = OmegaConf.select(cast(DictConfig, load_config([argument], CONF)), key)
    assert value == expected
    assert type(value) is type(expected) or isinstance(expected, list)


@pytest.mark.parametrize(
    ("argument", "fragments"),
    [
        ("algorithm.kl_coeff=1", ["algorithm.kl_coeff=1", "nearest known key is algorithm.kl_coef"]),
        ("kl_coef=1", ["unknown key kl_coef=1", "algorithm.kl_coef"]),
        ("trainer.tensor_model_parallel_size=2", ["model.tensor_model_parallel_size"]),
        ("+algorithm.new=1", ["unknown key algorithm.new=1"]),
        ("algorithm.steps.more=1", ["unknown key algorithm.steps.more=1"]),
        ("hydra.run.dir=x", ["unknown key hydra.run.dir=x"]),
        ("algorithm.steps=abc", ["algorithm.steps=abc", "expected integer"]),
        ("algorithm.steps=1.5", ["algorithm.steps=1.5", "expected integer"]),
        ("algorithm.steps=true", ["algorithm.steps=True", "expected integer"]),
        ("algorithm.steps=null", ["algorithm.steps=null", "expected integer"]),
        ("algorithm.steps=[1]", ["algorithm.steps=[1]", "expected integer"]),
        ("algorithm.schedule.t_mix=x", ["t_mix=x", "integer or null"]),
        ("algorithm.kl_coef=small", ["algorithm.kl_coef=small", "expected number"]),
        ("algorithm.kl_on_explorer=3", ["algorithm.kl_on_explorer=3", "expected true | false"]),
        ("algorithm.schedule.name=linaer", ["linaer", "linear | abrupt | constant | cosine | list | adaptive | none"]),
        ("algorithm.importance=[behavior]", ["algorithm.importance=['behavior']", "expected learner_old | behavior |"]),
        ("algorithm.importance=null", ["algorithm.importance=null", "expected learner_old | behavior |"]),
        ("logging.wandb_mode=loud", ["logging.wandb_mode=loud", "expected online | offline | disabled or null"]),
        ("hardware=h100", ["hardware=h100 is unknown", "did you mean h100_80gb?"]),
        ("algorithm.schedule=linear", ["algorithm.schedule=linear", "is a section", "algorithm.schedule.name"]),
        ("run.dir=[a]", ["run.dir=['a']", "expected text"]),
        ("run.dir=${run.dri}", ["run.dir", "'run.dri' not found"]),
        ("run.dir=${run.dir}", ["run.dir", "Recursive"]),
        ("algorithm.steps=${run.dir}", ["algorithm.steps", "Integer"]),
        ("algorithm.steps=???", ["algorithm.steps=???", "give a value"]),
        ("algorithm.steps=1,2", ["algorithm.steps=1,2", "several values: give one value"]),
        ("~algorithm.steps", ["~algorithm.steps", "give one value"]),
        ("algorithm.steps", ["'algorithm.steps' as key=value"]),
        ("algorithm.kl_coef=[1", ["algorithm.kl_coef=[1", "cannot read"]),
        ("experiment=gpro", ["experiment=gpro is unknown", "did you mean grpo?"]),
        ("family=llama", ["family=llama is unknown", "tiny"]),
        ("--config-name=papr", ["--config-name papr", "did you mean paper?"]),
        ("--config-name=../conf/paper", ["is unknown"]),
        ("--config-name", ["expected one argument"]),
        ("--verbose", ["--verbose", "--help"]),
    ],
)
def test_mistakes_on_the_command_line(argument: str, fragments: list[str]) -> None:
    message = error_of([argument])
    for fragment in fragments:
        assert fragment in message


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("algorithm:\n  stesp: 3\n", ["unknown key algorithm.stesp=3", "algorithm.steps"]),
        ("algorithm:\n  steps: many\n", ["algorithm.steps=many", "expected integer"]),
        ("algorithm:\n", ["algorithm=None", "is a section"]),
        ("1: 2\n", ["unknown key 1=2"]),
        ("run:\n  dir: !!python/object/apply:os.system ['true']\n", ["mine.yaml:2", "not valid YAML"]),
        ("run:\n  dir: !!python/name:os.system\n", ["mine.yaml:2", "not valid YAML"]),
        ("run:\n  dir: a\n  dir: b\n", ["mine.yaml:3", "duplicate key"]),
        ("run:\n\tdir: a\n", ["mine.yaml:2", "not valid YAML"]),
        ("run: {dir: a\n", ["mine.yaml", "not valid YAML"]),
        ("- 1\n- 2\n", ["mine.yaml", "key: value pairs"]),
        ("just text\n", ["mine.yaml", "key: value pairs"]),
        (BOMB, ["mine.yaml:2", "refers to an anchor"]),
        ("a: !!bool x\n", ["mine.yaml: not valid YAML: KeyError"]),
        ("a: !!timestamp x\n", ["mine.yaml: not valid YAML: AttributeError"]),
        (f"a: 1\nb: 0x{'f' * 5000}\n", ["mine.yaml:2: an integer of more than 64 bits"]),
        ('run:\n  dir: "a\\0b"\n', ["mine.yaml:2: a NUL character"]),
        ("run:\n  dir: ${oops\n", ["mine.yaml"]),
        ("defaults:\n  - family: missing\n", ["mine.yaml", "family/missing"]),
        ("a: " + "[" * 100_000, ["mine.yaml:1", "nested more than"]),
    ],
)
def test_r25_mistakes_in_files(conf: Path, text: str, fragments: list[str]) -> None:
    (conf / "mine.yaml").write_text(text)
    message = error_of(["--config-name", "mine"], conf)
    for fragment in fragments:
        assert fragment in message


def test_a_file_that_is_not_text(conf: Path) -> None:
    (conf / "mine.yaml").write_bytes(b"\xff\xfe\x00run")
    assert "mine.yaml: not a text file" in error_of(["--config-name", "mine"], conf)


def test_a_preset_of_the_user(conf: Path) -> None:
    (conf / "mine.yaml").write_text("defaults:\n  - train_s2l\n  - _self_\nmodel:\n  optim:\n    lr: 1e-6\n")
    cfg = load_config(["--config-name", "mine.yaml", "experiment=grpo"], conf)
    assert (cfg.model.optim.lr, cfg.trainer.devices, cfg.explorer.path) == (1e-6, 2, None)


@given(st.sampled_from(sorted(all_keys())), st.integers(0, 40))
def test_a_slip_of_one_letter_names_the_key(name: str, position: int) -> None:
    position = min(position, len(name) - 1)
    slip = name[:position] + "_" + name[position:]
    assert nearest_key(slip) == name


@given(st.sampled_from(["", "run.dir=", "algorithm.steps=", "algorithm={steps: ", "experiment="]), st.text(max_size=20))
def test_any_text_is_taken_or_refused_in_one_line(start: str, text: str) -> None:
    argument = start + text
    outcome = ""
    try:
        load_config([argument], CONF)
    except UserError as error:
        outcome = str(error)
    except SystemExit:
        outcome = argument
    assert len(outcome.splitlines()) <= 1


def test_resolved_yaml_reads_back(conf: Path) -> None:
    cfg = load_config(["experiment=grpo", "data.reasoning_gym.params={a: 1}"], conf)
    (conf / "resolved.yaml").write_text(resolved_yaml(cfg))
    assert load_config(["--config-name", "resolved"], conf) == cfg
    assert yaml.safe_load(resolved_yaml(cfg))["algorithm"]["schedule"]["name"] == "none"


def test_help_names_every_preset_choice_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], CONF)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text(CONF)
    for file in FILES:
        assert f"  {file.name} " in text
    for key in all_keys().values():
        assert f"  {key.name}={key.default_text()} " in text
        assert key.facts.help in text
    assert "algorithm.schedule.t_mix=null" in text
    assert "integer or null" in text
    assert "steps with explorer rollouts; null: half of algorithm.steps" in text


def test_reading_and_planning_import_nothing_heavy() -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from s2l_nemo.config import checks, load\n"
        "from s2l_nemo.planner import plan\n"
        "cfg = load.load_config(['--config-name', 'paper'], Path('conf'))\n"
        "checks.check_config(cfg)\nplan.render_plan(cfg)\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'nemo', 'megatron', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
