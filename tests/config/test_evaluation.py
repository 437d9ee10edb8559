"""Keys of an evaluation: typed by the same reader as those of training, consistent before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from s2l_nemo.config.asking import Mode, PromptStyle
from s2l_nemo.config.evaluation import EvaluateConfig, check_evaluate_config, result_name
from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.load import keys_text, load_values, presets, resolved_yaml
from s2l_nemo.config.schema import AnswerKind, Extract
from s2l_nemo.errors import UserError
from s2l_nemo.models.precision import Precision

ROOT = Path(__file__).parents[2]


def load(*arguments: str) -> EvaluateConfig:
    cfg = load_values(list(arguments), EvaluateConfig, "usage")
    check_evaluate_config(cfg)
    return cfg


def test_defaults() -> None:
    cfg = load("model=models/some.nemo")
    assert (cfg.mode, cfg.k, cfg.seed, result_name(cfg)) == (Mode.nothink, None, 1, "some")
    assert list(cfg.benchmarks) == ["aime24", "aime25", "math500", "olympiadbench", "commonsenseqa"]


def test_values_are_typed() -> None:
    cfg = load("model=a/b", "benchmarks=[aime24,mine]", "mode=think", "k=4", "evaluate.temperature=0.5",
               "evaluate.precision=bf16", "rewards.answer=exact", "name=run-1")  # fmt: skip
    assert list(cfg.benchmarks) == ["aime24", "mine"]
    assert (cfg.mode, cfg.k, result_name(cfg)) == (Mode.think, 4, "run-1")
    assert (cfg.evaluate.temperature, cfg.evaluate.precision) == (0.5, Precision.bf16)
    assert cfg.rewards.answer is AnswerKind.exact


def test_the_name_of_a_rescored_folder_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert result_name(load("evaluate.rescore=.")) == tmp_path.name


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["model=null", "evaluate.rescore=DIR"]),
        (["model=m", "evaluate.rescore=d"], ["model=m with evaluate.rescore=d"]),
        (["model=m", "data.chat_template_kwargs.enable_thinking=true"], ["enable_thinking=true with mode=nothink"]),
        (["model=m", "mode=think", "data.chat_template_kwargs.enable_thinking=false"], ["=false with mode=think"]),
        (["model=m", "data.chat_template_kwargs.tokenize=false"], ["must be variables that a chat template reads"]),
        (["model=m", "bencmarks=[a]"], ["unknown key bencmarks=['a']", "nearest known key is benchmarks"]),
        (["model=m", "evaluate.max_token=3"], ["nearest known key is evaluate.max_tokens"]),
        (["model=m", "evaluate=3"], ["evaluate is a section", "evaluate.prompt"]),
        (["model=m", "benchmarks=null"], ["benchmarks=null", "expected list of text, [a,b]"]),
        (["model=m", "steps=some"], ["steps=[some]: give steps=all, or each step once"]),
        (["model=m", "steps=[all,1]"], ["steps=[all,1]"]),
        (["model=m", "steps=[-1]"], ["steps=[-1]"]),
        (["model=m", "steps=[1,2,01]"], ["each step once"]),
        (["evaluate.rescore=d", "steps=all"], ["steps=[all] with evaluate.rescore=d"]),
        (["model=m", "engine.replicas_per_node=2"], ["engine.replicas_per_node=2 with engine.kind=embedded"]),
        (["model=m", "engine.placement=separate"], ["there is no trainer and no learner here"]),
        (["model=m", "engine.kind=vllm", "engine.explorer_devices='0,1,2'"], ["give servers 1 GPUs"]),
        (["model=m", "benchmarks=[[a]]"], ["expected list of text"]),
        (["model=m", "benchmarks=[]"], ["benchmarks=[]", "at least one"]),
        (["model=m", "benchmarks=[a,b,a]"], ["benchmarks=[a,b,a]", "once"]),
        (["model=m", "benchmarks=[../a]"], ["benchmarks=../a"]),
        (["model=m", "benchmarks=[summary]"], ["summary"]),
        (["model=m", "mode=thinking"], ["mode=thinking", "nothink | think"]),
        (["model=m", "k=x"], ["k=x", "integer or null"]),
        (["model=m", "k=0"], ["k=0: must be at least 1"]),
        (["model=m", "name=a/b"], ["name=a/b"]),
        (["model=m", "name=''"], ["name="]),
        (["model=m", "evaluate.temperature=0"], ["k=null with evaluate.temperature=0", "set k=1"]),
        (["model=m", "evaluate.temperature=0", "k=2"], ["k=2 with evaluate.temperature=0"]),
        (["model=m", "evaluate.temperature=-1"], ["evaluate.temperature=-1"]),
        (["model=m", "evaluate.top_p=0"], ["evaluate.top_p=0"]),
        (["model=m", "evaluate.presence_penalty=3"], ["evaluate.presence_penalty=3"]),
        (["model=m", "--config-name=tiny"], ["--config-name=tiny", "give key=value pairs, or --help"]),
        (["model=m", "experiment=grpo"], ["unknown key experiment=grpo"]),
        (["model=???"], ["model=???", "give a value"]),
    ],
)
def test_mistakes(arguments: list[str], fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_list_of_one_needs_no_brackets() -> None:
    cfg = load("model=m", "benchmarks=aime24", "steps=40")
    assert (list(cfg.benchmarks), list(cfg.steps)) == (["aime24"], ["40"])
    assert list(load("model=m", "steps=[0,40]").steps) == ["0", "40"]
    assert list(load("model=m", "steps=all").steps) == ["all"]


PRESETS = ROOT / "conf" / "evaluate"


@pytest.mark.parametrize("name", presets(PRESETS))
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    cfg = load_values(["--config-name", name, "model=m"], EvaluateConfig, "usage", PRESETS)
    check_evaluate_config(cfg)
    assert (cfg.evaluate.prompt, cfg.rewards.extract) == (PromptStyle.released, Extract.released)
    assert (PRESETS / f"{name}.yaml").read_text().startswith(("# Table ", "# Figure"))


def test_presets_are_the_papers() -> None:
    def preset(name: str, *arguments: str) -> EvaluateConfig:
        return load_values(["--config-name", name, "model=m", *arguments], EvaluateConfig, "usage", PRESETS)

    figures = {"figure_2_base", "figure_2_base_256", "step_curve"}
    assert set(presets(PRESETS)) == figures | {f"table_{number}" for number in (1, 2, 3, 4)}  # see test_experiments.py
    assert list(preset("step_curve", "steps=[0,8]").steps) == ["0", "8"]
    with pytest.raises(UserError, match=r"--config-name tabel_1 is unknown .* did you mean table_1"):
        preset("tabel_1")


def test_greedy_with_one_sample() -> None:
    assert load("model=m", "evaluate.temperature=0", "k=1").evaluate.temperature == 0


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == "usage\n" + keys_text(EvaluateConfig)
    for key in all_keys(EvaluateConfig).values():
        assert f"  {key.name}={key.default_text()} " in text
        assert key.facts.help in text
    assert text.index("  seed=1") < text.index("evaluate:\n") < text.index("rewards:\n")


def test_resolved_yaml_names_every_key() -> None:
    text = resolved_yaml(load("model=m", "k=3"))
    assert "k: 3\n" in text
    assert "  answer: math\n" in text


def test_help_and_checks_import_nothing_heavy() -> None:
    program = (
        "import sys\nsys.argv = ['evaluate.py', '--help']\nimport runpy\n"
        "try:\n    runpy.run_path('recipes/evaluate.py', run_name='__main__')\nexcept SystemExit as end:\n"
        "    assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'datasets', 'sympy', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
