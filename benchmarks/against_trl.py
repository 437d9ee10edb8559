"""Measures a GRPO step against TRL's: the same model, prompts, group size, lengths, loss and threads, without explorer.

    python benchmarks/against_trl.py --trl-python ENV/bin/python [--rounds 3] [--steps 6] [--output FILE]

TRL is in an environment of its own (`pip install trl==1.16.0 torch transformers datasets accelerate`), and its part of
this file imports nothing else. Needs the tiny family (`python tools/make_tiny_family.py`).

Both train the tiny learner with full precision on two cores, one optimizer step for all rows of a step. Blocks of steps
run in turns; the first step of a block warms up and is left out. Two cases:

- preset: the tiny preset's three-digit sums, prompts of about 30 tokens, answers as the model gives them.
- long: prompts of 256 tokens and answers of 64, at a temperature at which hardly one stops before.

Our side runs in the layouts given, TRL's with the micro-batches given; the best of each counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/tiny/learner"
CASES = {
    "preset": {"prompts": 32, "group": 16, "tokens": 96, "temperature": 1.0, "prompt_tokens": 0},
    "long": {"prompts": 16, "group": 16, "tokens": 64, "temperature": 20.0, "prompt_tokens": 256},
}


def write_prompts(path: Path, case: dict[str, Any], count: int) -> None:
    """Sums, after as much filling as makes `prompt_tokens` of them."""
    import random

    from s2l_nemo.models.tokenizer import load_tokenizer

    rng, tokenizer = random.Random(0), load_tokenizer(MODEL)

    def length(text: str) -> int:
        return len(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True))

    rows = []
    for _ in range(count):
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        question = f"{a}+{b}=?"
        while length(question) < case["prompt_tokens"]:
            question = f"{rng.randrange(10)}{question}"
        rows.append({"prompt": question, "answer": str(a + b)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def our_seconds(case: dict[str, Any], data: Path, steps: int, overrides: list[str]) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        keys = {
            "run.dir": run, "run.save_nemo": "false", "explorer.path": "null", "algorithm.schedule.name": "none",
            "algorithm.steps": steps + 1, "algorithm.prompts_per_step": case["prompts"],
            "algorithm.group_size": case["group"], "rollout.max_response_length": case["tokens"],
            "rollout.max_prompt_length": 320, "rollout.temperature": case["temperature"], "data.path": data,
            "data.valid_path": data, "validation.every": 0, "validation.prompts": 1, "validation.samples": 1,
            "logging.rollouts_every": 0, "checkpoint.every": 1000,
        }  # fmt: skip
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), *(f"{k}={v}" for k, v in keys.items())]
        subprocess.run([*command, *overrides], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [float(line["time/step"]) for line in lines[1:]]


def trl_seconds(case: dict[str, Any], data: Path, steps: int, python: Path, micro_batch: int) -> list[float]:
    settings = {**case, "data": str(data), "model": str(MODEL), "steps": steps + 1, "micro_batch": micro_batch}
    with tempfile.TemporaryDirectory() as folder:
        settings["output"] = str(Path(folder) / "seconds.json")
        command = [str(python), __file__, "--trl", json.dumps(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        seconds: list[float] = json.loads(Path(settings["output"]).read_text())
    return seconds[1:]


def train_with_trl(settings: dict[str, Any]) -> None:
    """TRL's side, in its own environment: writes the seconds of each step."""
    import time

    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]
    from transformers import TrainerCallback  # type: ignore[attr-defined, unused-ignore]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found, unused-ignore]

    rows = [json.loads(line) for line in Path(settings["data"]).read_text().splitlines()]
    dataset = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in rows]
    )
    sequences = settings["prompts"] * settings["group"]

    def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [float(rf"\boxed{{{gold}}}" in text) for text, gold in zip(texts, answer, strict=True)]

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    config = GRPOConfig(
        output_dir="trl",
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=sequences // settings["micro_batch"],
        num_generations=settings["group"],
        max_completion_length=settings["tokens"],
        temperature=settings["temperature"],
        beta=1e-3,
        epsilon=0.2,
        learning_rate=1e-4,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
    )
    GRPOTrainer(
        model=settings["model"], reward_funcs=reward, args=config, train_dataset=dataset, callbacks=[Clock()]
    ).train()
    Path(settings["output"]).write_text(json.dumps([b - a for a, b in itertools.pairwise(ends)]))


def layouts(case: dict[str, Any]) -> dict[str, list[str]]:
    """Overrides of each layout of two ranks, and of one."""
    rows = case["prompts"] * case["group"]
    sizes = {"one rank": (1, 1), "DP 2": (2, 1), "TP 2": (2, 2)}
    return {
        name: [
            f"trainer.devices={ranks}",
            f"model.tensor_model_parallel_size={tensor}",
            f"model.micro_batch_size={min(128, rows // (ranks // tensor))}",
        ]
        for name, (ranks, tensor) in sizes.items()
    }


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "prompts.jsonl"
        write_prompts(data, case, (options.steps + 1) * int(case["prompts"]))
        for _ in range(options.rounds):
            for layout, overrides in layouts(case).items():
                if layout in options.layouts:
                    seconds.setdefault(layout, []).extend(our_seconds(case, data, options.steps, overrides))
            for micro in options.micro_batches:
                its = trl_seconds(case, data, options.steps, options.trl_python, micro)
                seconds.setdefault(f"TRL, micro-batch {micro}", []).extend(its)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ours = min(value for side, value in medians.items() if not side.startswith("TRL"))
    theirs = min(value for side, value in medians.items() if side.startswith("TRL"))
    return {"case": name, **case, "median_seconds": medians, "best_ours_over_best_trl": ours / theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, help="interpreter of the environment that has trl")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--layouts", nargs="+", default=["one rank", "DP 2", "TP 2"])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[128, 256], help="rows, of TRL's side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps of a block that count")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--trl", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl:
        train_with_trl(json.loads(options.trl))
        return
    if options.trl_python is None:
        parser.error("--trl-python is needed: the interpreter of an environment with trl")
    results = [measure(name, options) for name in options.cases]
    for result in results:
        print(f"{result['case']}: best of ours / best of TRL = {result['best_ours_over_best_trl']:.2f}")
        for side, seconds in result["median_seconds"].items():
            print(f"  {side:<24}{seconds:8.2f} s")
    if options.output:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        settings = {"rounds": options.rounds, "steps": options.steps}
        options.output.write_text(json.dumps({"settings": settings, **machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
