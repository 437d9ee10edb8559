"""Which keys a run may continue with when they differ, also in a run of an earlier version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from s2l_nemo.algorithm.schedule import SCHEDULES, ScheduleKind
from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.resume import check_resume, t_mix_of
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError


def config(*changes: str, without: tuple[str, ...] = ()) -> str:
    """The default configuration with `key=value` changes, as YAML, without some keys or sections."""
    values = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(list(changes)))
    container = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(values)))
    for name in without:
        section = container
        *sections, last = name.split(".")
        for part in sections:
            assert isinstance(section, dict)
            section = section[part]
        assert isinstance(section, dict)
        del section[last]
    return yaml.safe_dump(container, sort_keys=False)


def refusal(old: str, new: str, steps_done: int = 6) -> str:
    with pytest.raises(UserError) as caught:
        check_resume(Path("runs/a"), old, new, steps_done)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.optim.beta1=0.5", "model.optim.beta1=0.9, now 0.5; set model.optim.beta1=0.9"),
        ("run.seed=2", "run.seed=1, now 2; set run.seed=1"),
        ("algorithm.schedule.name=cosine", "algorithm.schedule.name=linear, now cosine"),
        ("algorithm.adv_norm=split", "algorithm.adv_norm=mixed, now split"),
        ("algorithm.kl_on_explorer=false", "algorithm.kl_on_explorer=true, now false"),
        ("explorer.path=null", "explorer.path=models/tiny/explorer, now null"),
        ("algorithm.schedule.t_mix=10", "algorithm.schedule.t_mix=8, now 10; set algorithm.schedule.t_mix=8"),
        ("data.reasoning_gym.params.size=3", "data.reasoning_gym.params.size=null, now 3"),
    ],
)
def test_r09_another_value_is_refused(change: str, message: str) -> None:
    text = refusal(config(), config(change))
    assert text.startswith(f"run.dir=runs/a was started with {message}")
    assert text.endswith(" to continue it, or choose another run.dir")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"run: {{seed: 0x{'f' * 5000}}}", ":1: an integer of more than 64 bits"),
        (f"zzz: [0x{'f' * 5000}]", ":1: an integer of more than 64 bits"),
        ("algorithm: {kl_coef: 2020-99-99}", "was started with algorithm.kl_coef=2020-99-99"),
        ("a: !!bool x", ": not valid YAML: KeyError"),
        ("a: !!timestamp x", ": not valid YAML: AttributeError"),
        ('explorer:\n  path: "a\\0b"', ":2: a NUL character: take it out"),
        ("a: &a [x]\nb: *a", ":2: *a refers to an anchor: write it out"),
    ],
)
def test_a_value_of_the_file_that_cannot_be_read_or_shown(text: str, message: str) -> None:
    assert message in refusal(text, config())


def test_the_first_difference_in_the_order_of_the_schema_is_named() -> None:
    assert "run.seed=1, now 2" in refusal(config(), config("algorithm.group_size=8", "run.seed=2"))


def test_a_free_name_that_is_gone_is_a_difference() -> None:
    assert "params.size=3, now null" in refusal(config("data.reasoning_gym.params.size=3"), config())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([], ["algorithm.steps=20", "algorithm.schedule.t_mix=8"]),
        (["algorithm.schedule.t_mix=8"], ["algorithm.steps=16"]),
        # null is the T_mix that the run has had, so that longer or shorter training does not move the annealing
        ([], ["algorithm.steps=20"]),
        ([], ["algorithm.steps=6"]),
        (["model.optim.lr_schedule=cosine"], ["model.optim.lr_schedule=cosine", "algorithm.steps=20"]),
        ([], ["model.optim.lr=0.5", "model.optim.min_lr=0.25"]),
        (["algorithm.schedule.name=none"], ["algorithm.schedule.name=none", "algorithm.steps=20"]),
        (
            ["algorithm.schedule.name=constant", "algorithm.schedule.t_mix=1"],
            ["algorithm.schedule.name=constant", "algorithm.schedule.t_mix=2"],
        ),
        ([], ["run.dir=elsewhere", "trainer.devices=2", "model.tensor_model_parallel_size=2"]),
        ([], ["validation.every=1", "checkpoint.keep=7", "logging.rollouts_every=0"]),
        ([], ["engine.kind=server", "logging.wandb_mode=offline"]),
        ([], ["model.micro_batch_size=1"]),
    ],
)
def test_what_may_change(old: list[str], new: list[str]) -> None:
    check_resume(Path("runs/a"), config(*old), config(*new), 6)


def test_a_registered_schedule_says_itself_whether_it_has_a_t_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    half = ScheduleKind(lambda step, options, outcomes: options.alpha / 2, uses_t_mix=False)
    monkeypatch.setattr(SCHEDULES, "_choices", dict(SCHEDULES._choices))  # forgets the name afterwards
    SCHEDULES.register("half", half)
    old = config("algorithm.schedule.name=half")
    check_resume(Path("runs/a"), old, config("algorithm.schedule.name=half", "algorithm.steps=20"), 6)


@pytest.mark.parametrize(
    ("changes", "t_mix"),
    [
        ([], 8),
        (["algorithm.steps=21"], 10),
        (["algorithm.schedule.t_mix=3"], 3),
        (["algorithm.schedule.t_mix=0"], 0),
        (["algorithm.schedule.name=constant"], None),
    ],
)
def test_the_t_mix_of_a_run(changes: list[str], t_mix: int | None) -> None:
    assert t_mix_of(config(*changes)) == t_mix


def test_fewer_steps_than_done_are_refused() -> None:
    fixed = "algorithm.schedule.t_mix=2"
    text = refusal(config(fixed), config(fixed, "algorithm.steps=4"), steps_done=6)
    assert text == "algorithm.steps=4, but run.dir=runs/a has done 6; raise it"
    check_resume(Path("runs/a"), config(fixed), config(fixed, "algorithm.steps=6"), 6)


OLD = config(without=("model.optim.eps", "algorithm.adv_norm", "algorithm.schedule.t_mix", "data.reasoning_gym"))


def test_f22_a_key_that_an_earlier_version_did_not_have_had_its_default() -> None:
    assert "adv_norm" not in OLD
    check_resume(Path("runs/a"), OLD, config(), 6)
    check_resume(Path("runs/a"), OLD, config("algorithm.schedule.t_mix=8"), 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.optim.eps=0.001", "model.optim.eps=1e-08, now 0.001; set model.optim.eps=1e-08"),
        ("algorithm.adv_norm=split", "algorithm.adv_norm=mixed, now split; set algorithm.adv_norm=mixed"),
        ("algorithm.schedule.t_mix=5", "algorithm.schedule.t_mix=8, now 5"),
        ("data.reasoning_gym.seed=3", "data.reasoning_gym.seed=17, now 3"),
    ],
)
def test_another_value_than_that_default_is_refused(change: str, message: str) -> None:
    assert f"was started with {message}" in refusal(OLD, config(change))


@pytest.mark.parametrize("extra", ["algorithm: {temperature_decay: 0.5}", "algorithm: {kl_coef: {early: 0.5}}"])
def test_a_key_that_this_version_does_not_know_is_refused(extra: str) -> None:
    name = "algorithm.kl_coef.early" if "early" in extra else "algorithm.temperature_decay"
    assert refusal(extra, config()) == (
        f"run.dir=runs/a was started with {name}=0.5, a key that this version does not know; continue it with the "
        "version that versions.json names, or choose another run.dir"
    )


def test_the_keys_that_may_change() -> None:
    free = {name for name, key in all_keys().items() if key.facts.may_change}
    whole = {"validation", "checkpoint", "logging", "engine"}
    assert {name.partition(".")[0] for name in all_keys().keys() - free}.isdisjoint(whole)
    assert {name for name in free if name.partition(".")[0] not in whole} == {
        "run.allow_changed", "run.dir", "run.dry_run", "run.export_hf", "run.max_restarts", "run.max_skipped",
        "run.resume", "run.save_before", "run.save_nemo", "run.watch_s",
        "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.start_s",
        "model.tensor_model_parallel_size", "model.pipeline_model_parallel_size", "model.micro_batch_size",
        "model.micro_batch_tokens",
        "model.activation_checkpointing", "model.offload_optimizer", "model.offload_weights",
        "model.optim.lr", "model.optim.min_lr",
        "algorithm.steps", "explorer.samples", "rollout.explorer_ahead", "rollout.max_batch_rows",
        "rollout.refit_bucket_mb",
        "data.cache_dir",
        "rewards.workers", "rewards.cpu_s", "rewards.wall_s", "rewards.memory_mb", "rewards.batch_s",
    }  # fmt: skip


def test_f23_another_way_to_the_same_place_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("large", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "models" / "large")
    old = config("model.path=models/large", "explorers.a.path=models/large", "data.mix.b.path=models/large")
    for same in ("models/large/", f"{tmp_path}/models/large", "./models//large", "link", "models/other/../large"):
        check_resume(Path("runs/a"), old, config(*(f"{key}={same}" for key in PLACES)), 6)
    for key in PLACES:
        changed = [f"{one}=models/{'other' if one == key else 'large'}" for one in PLACES]
        assert f"{key}=models/large, now models/other" in refusal(old, config(*changed))


PLACES = ("model.path", "explorers.a.path", "data.mix.b.path")
