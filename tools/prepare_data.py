r"""Makes a training file of bare questions with answers that can be graded, each once; or a benchmark file.

    python tools/prepare_data.py --source BytedTsinghua-SIA/DAPO-Math-17k --output data/dapo_17k/train.jsonl
    python tools/prepare_data.py --source dapo-math-17k.parquet --output train.jsonl --valid 500 --exclude math500.jsonl
    python tools/prepare_data.py --source math-ai/aime25:test --format benchmark --output data/benchmarks/aime25.jsonl

A source is a file (.parquet; .jsonl or .json with one object a line or one array; .csv, .tsv; all but parquet also
.gz), or owner/name[/config][@revision][:split] of the Hugging Face hub. None of its code is run. The answer may stand
behind #### (GSM8K), in the last box of a solution (MATH), or be one of several choices (ARC, CommonsenseQA). Training
rows are {"prompt", "answer", "id"}, so data.prompt_key and data.answer_key need not be set. OUTPUT.manifest.json says
what has been dropped and why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import s2l_nemo
from s2l_nemo.arguments import Parser, a_path, name_or_path
from s2l_nemo.config.schema import AnswerKind, RewardsConfig
from s2l_nemo.data.benchmarks import INSTRUCTIONS, benchmark_record
from s2l_nemo.data.normalize import question_key, strip_wrapper, why_unanswerable
from s2l_nemo.data.prepare import (
    DAPO,
    UNREADABLE,
    Keys,
    Output,
    Preparation,
    Report,
    file_hash,
    find_keys,
    json_line,
    source_id,
)
from s2l_nemo.data.rows import lookup, question_of
from s2l_nemo.data.sources import BadRow, Record, is_hub_name, read_records
from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing, write_json_atomic
from s2l_nemo.hub.names import Kind, hub_name
from s2l_nemo.hub.snapshots import open_snapshot
from s2l_nemo.platform.failures import command
from s2l_nemo.rewards.judge import GoldJudge

OWN_INSTRUCTION = "kind"  # --instruction without a text: that of the evaluation for the kind of answer
FORMATS = {"dapo": DAPO, "plain": Keys("prompt", "answer")}


def main(argv: list[str]) -> int:
    options = parse(argv)
    output = Output(options.output)
    check_paths(options, output)
    output.train.parent.mkdir(parents=True, exist_ok=True)
    keys = choose_keys(options)
    settings = {
        "source": options.source,
        "source_sha256": source_hash(options.source),
        "source_commit": source_commit(options.source),
        "format": options.format,
        "prompt_key": keys.prompt,
        "answer_key": keys.answer,
        "limit": options.limit,
        "versions": {"python": platform.python_version(), "s2l_nemo": s2l_nemo.__version__}
        | {name: metadata.version(name) for name in ("datasets", "pyarrow")},
    }
    if options.format == "benchmark":
        write_benchmark(options, keys, output, settings)
    else:
        write_training(options, keys, output, settings)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--source", type=name_or_path, required=True, help="file, or name on the Hugging Face hub")
    parser.add_argument("--output", type=a_path, required=True, help="new JSONL file")
    parser.add_argument(
        "--format",
        choices=("auto", "dapo", "plain", "benchmark"),
        default="auto",
        help="fields of the source: dapo is prompt and reward_model.ground_truth, plain is prompt and answer, auto "
        "looks at the first record; benchmark writes a file for evaluation, without dropping anything",
    )
    parser.add_argument("--prompt-key", help="field of the question, a name or a dotted path")
    parser.add_argument("--answer-key", help="field of the gold answer, a name or a dotted path")
    parser.add_argument("--limit", type=positive, help="read only so many rows of the source")
    parser.add_argument("--valid", type=positive, default=0, help="hold out so many rows in OUTPUT_valid.jsonl")
    parser.add_argument("--seed", type=int, default=1, help="draws the rows held out")
    parser.add_argument(
        "--exclude", type=name_or_path, nargs="+", default=[], help="drop the questions of these files (benchmarks)"
    )
    parser.add_argument(
        "--instruction",
        nargs="?",
        default="",
        const=OWN_INSTRUCTION,
        help="text to put after each question, if training is not to add it (data.instruction); without a text, the "
        "instruction of the evaluation",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def check_paths(options: argparse.Namespace, output: Output) -> None:
    """Raises UserError if a source is missing, or if the output may not be written. Nothing has been read by then."""
    for source in (options.source, *options.exclude):
        if not is_hub_name(source) and not Path(source).is_file():
            key = "--source" if source is options.source else "--exclude"
            raise UserError(f"cannot read {key} {source}: there is no such file; correct the path")
    if output.train.suffix != ".jsonl":
        raise UserError(f"--output {output.train} must end in .jsonl")
    written = [output.train, output.manifest, *([output.valid] if options.valid else [])]
    for path in written:
        if path.exists() and not options.force:
            raise UserError(f"{path} exists: choose another --output, or replace it with --force")
        if os.path.realpath(path) in [os.path.realpath(source) for source in (options.source, *options.exclude)]:
            raise UserError(f"{path} is also read: choose another --output")
    for name in ("valid", "exclude", "instruction"):
        if options.format == "benchmark" and getattr(options, name):
            raise UserError(f"--{name} is for training files: leave it out with --format benchmark")


def source_hash(source: str) -> str | None:
    """SHA-256 of a file. None for a data set of the hub, whose commit stands for it."""
    return None if is_hub_name(source) else file_hash(Path(source))


def source_commit(source: str) -> str | None:
    """The commit of a data set of the hub. None for a file."""
    name = hub_name(Kind.dataset, source)
    return None if name is None else open_snapshot(source, name).commit


def choose_keys(options: argparse.Namespace) -> Keys:
    """The fields of question and answer. Options come first, then the format, then the fields of the first record."""
    prompt_key, answer_key = options.prompt_key, options.answer_key
    if options.format in FORMATS:
        keys = FORMATS[options.format]
    elif prompt_key and answer_key:
        keys = Keys(prompt_key, answer_key)
    else:
        first = next((record for _, record in read_records(options.source) if not isinstance(record, BadRow)), None)
        if first is None:
            raise UserError(f"{options.source} has no readable row; see --format and --source")
        try:
            keys = find_keys(first, prompt_key, answer_key)
        except ValueError as error:
            raise UserError(f"{options.source}: {error}") from error
    return Keys(prompt_key or keys.prompt, answer_key or keys.answer)


def write_training(options: argparse.Namespace, keys: Keys, output: Output, settings: dict[str, object]) -> None:
    excluded = {key for file in options.exclude for key in question_keys(file)}
    settings |= {"exclude": {Path(file).name: source_hash(file) for file in options.exclude}}
    instructions = dict.fromkeys(AnswerKind, options.instruction)
    if options.instruction == OWN_INSTRUCTION:
        instructions = INSTRUCTIONS
    settings |= {"instruction": options.instruction, "valid": options.valid, "seed": options.seed}
    with (
        tempfile.TemporaryFile(dir=output.train.parent) as spool,
        contextlib.closing(GoldJudge(RewardsConfig())) as judge,
    ):
        preparation = Preparation(keys, spool, judge, instructions, excluded)
        for line, record in progress(options):
            preparation.add(line, record)
        preparation.write(output, options.valid, options.seed, settings)
    print_report(preparation.report, output)


def question_keys(file: str) -> Iterator[str]:
    """The `question_key` of every question in a file."""
    for line, record in read_records(file):
        if isinstance(record, BadRow):
            raise UserError(f"--exclude {file}:{line}: {record.reason}")
        try:
            key = find_keys(record).prompt
            yield question_key(strip_wrapper(question_of(lookup(record, key, ""), key)))
        except ValueError as error:
            raise UserError(f"--exclude {file}:{line}: {error}") from error


def write_benchmark(options: argparse.Namespace, keys: Keys, output: Output, settings: dict[str, object]) -> None:
    """Writes every row, in order. Raises UserError at the first malformed one."""
    answers: dict[str, int] = {}  # of problems without choices, with the line of the first one
    count = 0
    with replacing(output.train) as temporary:
        with temporary.open("wb") as file:
            for line, record in progress(options):
                if isinstance(record, BadRow):
                    raise UserError(f"{options.source}:{line}: {record.reason}")
                try:
                    row = benchmark_record(record, keys.prompt, keys.answer)
                except ValueError as error:
                    raise UserError(f"{options.source}:{line}: {error}") from error
                identifier = source_id(record)
                file.write(json_line(row | ({} if identifier is None else {"id": identifier})))
                count += 1
                if "answer" in row:
                    answers.setdefault(row["answer"], line)
        if not count:
            raise UserError(f"{options.source} has no rows")
        faults = answer_faults(answers)
        rows = {"read": count, "kept": count, UNREADABLE: faults}
        hashes = {output.train.name: file_hash(temporary)}
        write_json_atomic(output.manifest, {**settings, "rows": rows, "sha256": hashes})
    print(f"wrote {output.train}: {count} problems")
    if faults:
        print(f"{len(faults)} of their answers nothing but the same text can equal: {'; '.join(faults[:3])}")


def answer_faults(answers: dict[str, int]) -> list[str]:
    """Line and reason of each answer that is prose or that the reward cannot read. They stay in a benchmark."""
    with contextlib.closing(GoldJudge(RewardsConfig())) as judge:
        reasons = judge.unreadable(list(answers))
    prose = (why_unanswerable("?", answer) for answer in answers)
    return [
        f"line {line}: {answer!r:.40}: {reason or words}"
        for (answer, line), reason, words in zip(answers.items(), reasons, prose, strict=True)
        if reason or words
    ]


def progress(options: argparse.Namespace) -> Iterator[tuple[int, Record | BadRow]]:
    """The records of the source. If standard error is a terminal, it shows their number."""
    console = Console(stderr=True)
    columns = (TextColumn("reading {task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(options.source, total=options.limit)
        for numbered in islice(read_records(options.source), options.limit):
            yield numbered
            bar.advance(task)


def print_report(report: Report, output: Output) -> None:
    table = Table("rows", "count", "lines, for example", title=str(output.train))
    table.columns[1].justify = "right"
    table.add_row("read", f"{report.read:,}")
    for reason, count in report.dropped.items():
        table.add_row(f"  {reason}", f"-{count:,}", "; ".join(report.examples[reason]))
    if report.held_out:
        table.add_row(f"held out in {output.valid.name}", f"{report.held_out:,}")
    table.add_row(
        "kept", f"{report.kept:,}", f"{report.wrappers:,} rows had an instruction wrapper" * (report.wrappers > 0)
    )
    Console().print(table)
    if set(report.kinds) == {AnswerKind.choice.value}:
        print("the answers are letters: train with rewards.answer=choice")


@command
def run(argv: list[str]) -> int:
    """Runs the command. The exit code is 2, with one line, for a mistake of the user, and 130 or 143 for a signal."""

    def interrupt(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
