"""Readers of what runs, evaluations and stores have left, which may be another person's, or damaged."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from s2l_nemo.config.asking import Mode
from s2l_nemo.config.schema import AnswerKind, Config, Resume
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import check_answers, stated_answer
from s2l_nemo.evaluation.compare import differences, label
from s2l_nemo.evaluation.folder import find_folder
from s2l_nemo.evaluation.results import BenchmarkResult, Summary, read_result
from s2l_nemo.evaluation.steps import load_curves, models_of_run, prompts_asked, read_curve
from s2l_nemo.hub.commits import commits
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.planner.simulation.recorded import recorded_groups, recorded_steps
from s2l_nemo.records.checkpoints import complete_checkpoints, fault, publish_checkpoint, unfit_checkpoints
from s2l_nemo.records.directory import check_run_dir, pin_commits, read_config
from s2l_nemo.records.dump import rollout_table, write_rollouts
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.records.transcript import facts, read_groups, title, to_console
from s2l_nemo.store.facts import read_facts
from s2l_nemo.store.index import _read
from s2l_nemo.store.prompts import read_prompts
from s2l_nemo.store.reader import Store
from s2l_nemo.store.sampling.recorded import _has_logprobs, _rollouts
from s2l_nemo.store.shards import read_keys, read_notes, read_shard
from s2l_nemo.trainer.summary import compare
from s2l_nemo.types import Completion, Group, Prompt
from tests.fuzz.mutate import damage, json_damage, json_lines_damage
from tests.fuzz.reader import Harness, Reader
from tests.store.stores import PROMPTS, facts_of, write_store


def run_config(folder: Path) -> Harness:
    """config.yaml, in all that read it: tools, evaluations, and a run that goes on."""
    started = OmegaConf.to_yaml(OmegaConf.structured(Config))

    reads: Sequence[Callable[[], object]] = (
        lambda: read_config("run", folder),
        lambda: models_of_run(folder, ["all"]),
        lambda: prompts_asked(folder),
        lambda: check_run_dir(folder, Resume.auto, started),
    )

    def read(_: bytes) -> None:
        each(reads)

    _checkpoint(folder, 1)
    (folder / "versions.json").write_text('{"packages": {"s2l_nemo": "0.1.0"}}')
    short = "algorithm:\n  steps: 40\n  prompts_per_step: 32\nmodel:\n  path: models/tiny/learner\n"
    whole = OmegaConf.to_container(OmegaConf.structured(Config), enum_to_str=True)
    assert isinstance(whole, dict)
    known = {"algorithm": {"steps": 40, "prompts_per_step": 32}, "model": {"path": "models/tiny/learner"}}
    sections = [known | {name: known.get(str(name), {}) | section} for name, section in whole.items()]
    seeds = [as_yaml(json.dumps(one).encode()) for one in (whole, *sections)]

    def mutate(random: Random, one: bytes, seeds: Sequence[bytes]) -> bytes:
        return as_yaml(json_damage(random, one, seeds))

    return Harness([short.encode(), *seeds], read, folder / "config.yaml", mutate)


def as_yaml(content: bytes) -> bytes:
    return re.sub(rb"(?<=[ :]\d)e-", b".0e-", content)  # which is a number in YAML 1.1, too


def run_versions(folder: Path) -> Harness:
    _checkpoint(folder, 1)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(Config)))
    taken = {"models/a/b@main": "0" * 40}
    seed = json.dumps({"packages": {"s2l_nemo": "0.1.0"}, "hub": taken, "earlier": [{"python": "3.11"}]}).encode()

    def read(_: bytes) -> None:
        pin_commits(folder)
        commits()

    return Harness([seed], read, folder / "versions.json", json_damage)


def each(reads: Sequence[Callable[[], object]]) -> None:
    """Makes every reading, so that one that refuses a file does not hide it from the next. Raises the first refusal."""
    refusals = []
    for read in reads:
        try:
            read()
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _checkpoint(folder: Path, step: int) -> Path:
    temporary = folder / "checkpoints" / "made"
    temporary.mkdir(parents=True)
    (temporary / "weights").write_bytes(b"1234")
    publish_checkpoint(temporary, folder / "checkpoints" / f"step_{step:06d}")
    return folder / "checkpoints" / f"step_{step:06d}"


def checkpoint_marker(folder: Path) -> Harness:
    marker = _checkpoint(folder, 1) / "COMPLETE.json"

    def read(_: bytes) -> None:
        unfit_checkpoints(folder / "checkpoints")
        for one in complete_checkpoints(folder / "checkpoints"):
            fault(one)

    return Harness([marker.read_bytes()], read, marker, json_damage)


def run_summary(folder: Path) -> Harness:
    (folder / "versions.json").write_text('{"packages": {"s2l_nemo": "0.1.0"}}')

    def read(_: bytes) -> None:
        check_run_dir(folder, Resume.auto, "")

    return Harness([b'{"steps": null, "before": {"pass@1": 0.5}}', b"{}"], read, folder / "summary.json", json_damage)


def metrics(folder: Path) -> Harness:
    """metrics.jsonl, in tools and in a run that goes on."""
    lines = [
        {"step": step, "loss": 0.1, "time/step": 2.0, "time/rollout": None, "total/prompts": 32} for step in (1, 2, 3)
    ]
    _rollout_files(folder)
    (folder / "config.yaml").write_text("algorithm: {prompts_per_step: 32}")

    def read(_: bytes) -> None:
        [line for line in read_metrics(folder / "metrics.jsonl") if line["step"] <= 2]  # as MetricsWriter does
        prompts_asked(folder)(3)
        recorded_steps("calibrate", folder, 10)

    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Harness([seed], read, folder / "metrics.jsonl", json_lines_damage)


def _rollout_files(folder: Path) -> list[Path]:
    prompt = Prompt(7, "1 + 1?", "2", (1, 2))
    arrays = np.array([5, 6], np.int32), np.array([-0.5, -1.5], np.float32)
    completions = tuple(
        Completion(7, sample, sample % 2, *arrays, "stop" if sample else "length", 3, 1.0 * sample)
        for sample in range(2)
    )
    table = rollout_table(2, Group(prompt, completions), [0.5, -0.5], lambda ids: " ".join(map(str, ids)))
    files = [folder / "rollouts" / f"step_{step:06d}.parquet" for step in (2, 3)]
    for file in files:
        write_rollouts(file, [table])
    return files


def rollouts(folder: Path) -> Harness:
    file, other = _rollout_files(folder)
    other.unlink()
    console = Console(file=(folder / "console").open("w"), width=100)

    def read(_: bytes) -> None:
        for group in read_groups(file, None):
            assert title(group)
            assert all(map(facts, group))
            console.print(to_console(group))
        recorded_groups("recorded", folder, 10)
        for source in ("learner", "explorer"):
            list(_rollouts(file, source, _has_logprobs([file], source), {7}, Counter()))

    return Harness([file.read_bytes()], read, file)


def result(folder: Path) -> Harness:
    interval = Interval(0.5, 0.25, 0.75)
    found = BenchmarkResult(
        "a", "aime24", Mode.think, 100, 2, 2, 0, 0, interval, {1: interval, 2: interval}, interval, 5.0, 0.1, 0.0, 0,
        [[0, 1], [1, 1]], [0, "b"], None,
    )  # fmt: skip
    step = folder / "step_000003"
    step.mkdir()
    (folder / "steps.json").write_text('{"name": "a", "steps": [{"step": 3, "prompts": 96}]}')
    (step / "summary.json").write_text('{"benchmarks": {"aime24": {}}}')
    file = step / "aime24.json"

    def read(_: bytes) -> None:
        one = read_result(file)
        json.dumps(Summary(one.name, [one]).to_json())
        differences({one.name: one}, {one.name: one})
        label({"x": one})
        read_curve(folder)

    return Harness([json.dumps(found.to_json()).encode()], read, file, json_damage)


def curve(name: str) -> Callable[[Path], Harness]:
    """A file of an evaluation step by step: steps.json, or the summary of a step."""

    def prepare(folder: Path) -> Harness:
        (folder / "step_000003").mkdir()
        contents = {
            "steps.json": b'{"name": "a", "steps": [{"step": 3, "prompts": 96}]}',
            "step_000003/summary.json": b'{"benchmarks": {}}',
        }
        for other, content in contents.items():
            (folder / other).write_bytes(content)
        seeds = [contents[name]] + ([b'{"name": "a", "steps": []}'] if name == "steps.json" else [])
        return Harness(seeds, lambda _: load_curves([folder, folder]), folder / name, json_damage)

    return prepare


def evaluation_config(folder: Path) -> Harness:
    outputs = folder / "output" / "a_20260101-120000"
    outputs.mkdir(parents=True)
    identity = {"model": "x", "rewards": {"answer": "math"}, "sha256": {"model": "0"}}

    def read(_: bytes) -> None:
        stated_answer(outputs)
        check_answers(outputs, AnswerKind.math)
        find_folder(folder, "a", identity)

    return Harness([json.dumps(identity).encode()], read, outputs / "config.txt", json_damage)


def validation(folder: Path) -> Harness:
    """The last validation of a run, which its summary compares with the first."""
    content = {"step": 3, "prompt_ids": [1, 2], "correct": [[0, 1], [1, 1]], "grader_errors": 0}
    asked = {"asked": {"prompts": "0a", "sampling": {"temperature": 1.0, "samples": 2}}}
    first, last = (folder / f"step_{step:06d}.json" for step in (0, 3))

    def read(content: bytes) -> None:
        compare(folder, 3).figures()
        if content == seeds[0]:
            return
        first.write_bytes(content)  # as the first one
        last.write_bytes(seeds[0])
        try:
            compare(folder, 3).figures()
        finally:
            first.write_bytes(seeds[0])

    seeds = [json.dumps(one).encode() for one in ({**content, **asked}, content)]
    first.write_bytes(seeds[0])
    return Harness(seeds, read, last, json_damage, may_write=True)


def store_facts(folder: Path) -> Harness:
    seed = json.dumps(facts_of().to_json()).encode()
    imported = json.dumps(facts_of(seed=None, explorer=None, weight_hash=None, has_logprobs=False).to_json()).encode()

    def read(_: bytes) -> None:
        found = read_facts(folder)
        found.hash()

    return Harness([seed, imported], read, folder / "store.json", json_damage)


def store_prompts(folder: Path) -> Harness:
    write_store(folder / "store")
    path = folder / "store" / "prompts.parquet"
    return Harness([path.read_bytes()], lambda _: list(read_prompts(folder / "store", facts_of())), path)


def store_shard(folder: Path) -> Harness:
    path = write_store(folder / "store") / "rollouts" / "0.parquet"
    known = {prompt.prompt_id for prompt in PROMPTS}

    def read(_: bytes) -> None:
        read_keys(path, facts_of())
        read_notes(path, facts_of())
        read_shard(path, facts_of(), known)

    return Harness([path.read_bytes()], read, path)


def store_index(name: str) -> Callable[[Path], Harness]:
    """A file of the cache beside a store, with the checksums that it would have: it may come with the store.

    A damaged one would be made anew from the shards, which tests/store/test_index.py does: here it is only refused.
    """

    def prepare(folder: Path) -> Harness:
        store, facts = write_store(folder / "store"), facts_of()
        Store.open(store).close()
        (index,) = (path for path in (store / "index").iterdir() if path.is_dir())
        head = json.loads((index / "index.json").read_bytes())

        def read(content: bytes) -> None:
            if name != "index.json":
                sums = {**head["sha256"], name: hashlib.sha256(content).hexdigest()}
                (index / "index.json").write_text(json.dumps({**head, "sha256": sums}))
            found = _read(index, facts)
            if found is None:
                raise UserError("it would be made anew")
            opened = Store(store, facts, found)
            opened.draw_all(*zip(*all_rollouts(opened), strict=True), sample_ids=range(opened.rollouts), source=0)
            opened.close()

        mutate = json_damage if name.endswith(".json") else damage
        return Harness([(index / name).read_bytes()], read, index / name, mutate, may_write=True)

    return prepare


def all_rollouts(store: Store) -> list[tuple[int, int]]:
    """Every prompt id with every position of it."""
    return [(prompt, position) for prompt, count in store.counts.items() for position in range(count)]


READERS = (
    Reader(
        "run-config",
        ("plain_yaml", "config.load", "config.resume", "records.directory", "evaluation.steps"),
        run_config,
    ),
    Reader("run-versions", ("records.directory", "records.versions"), run_versions),
    Reader("checkpoint-marker", ("records.checkpoints",), checkpoint_marker),
    Reader("run-summary", ("records.directory",), run_summary),
    Reader("metrics", ("records.metrics", "planner.simulation.recorded"), metrics),
    Reader("rollouts", ("records.dump", "planner.simulation.recorded", "store.sampling.recorded"), rollouts),
    Reader("result", ("evaluation.results",), result),
    Reader("curve", ("evaluation.steps",), curve("steps.json")),
    Reader("curve-summary", ("evaluation.steps",), curve("step_000003/summary.json")),
    Reader("evaluation-config", ("evaluation.answers", "evaluation.folder"), evaluation_config),
    Reader("validation", ("trainer.validation", "trainer.summary"), validation),
    Reader("store-facts", ("store.facts",), store_facts),
    Reader("store-prompts", ("store.prompts",), store_prompts),
    Reader("store-shard", ("store.shards",), store_shard),
    Reader("store-index-json", ("store.index",), store_index("index.json")),
    Reader("store-index-rows", ("store.index",), store_index("rows.npy")),
    Reader("store-index-rewards", ("store.index",), store_index("rewards.npy")),
)
