"""Makes a training file of a public data set: bare questions with answers that can be graded, each once.

Rows are read in source order. A later row may contradict an earlier one, so the rows that stay so far go to a temporary
file. Only their hashes are kept in memory, about 300 bytes for each different question.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from s2l_nemo.data.normalize import answer_key, question_key, strip_wrapper, why_unanswerable
from s2l_nemo.data.rows import check_text, gold_text, lookup, question_of
from s2l_nemo.data.sources import BadRow, Record
from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing, write_json_atomic

MALFORMED = "malformed row"
EXACT = "exact duplicate"
NORMALIZED = "duplicate after normalisation"
CONTRADICTION = "same question with different answers"
EXCLUDED = "question of an excluded file"
_EXAMPLES = 3  # lines that are named for each reason
_CONTRADICTED = b""
_HASH_BYTES = 16


@dataclass
class Report:
    """What has become of the rows. `read` is `kept` + `held_out` + the sum of `dropped`."""

    read: int = 0
    kept: int = 0
    held_out: int = 0
    wrappers: int = 0  # rows that had an instruction around the question, without duplicates
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows; after `write` the most frequent comes first
    examples: dict[str, list[str]] = field(default_factory=dict)  # first lines of each reason

    def drop(self, reason: str, line: int, detail: str = "") -> None:
        """Counts a dropped row."""
        self.count(reason)
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{line}: {detail}" if detail else str(line))

    def count(self, reason: str) -> None:
        """Counts a dropped row without naming its line."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


@dataclass(frozen=True)
class Keys:
    """Where a record holds its question and its gold answer: field names or dotted paths."""

    prompt: str
    answer: str


DAPO = Keys("prompt", "reward_model.ground_truth")
_PROMPT_KEYS = ("prompt", "question", "problem")
_ANSWER_KEYS = ("reward_model.ground_truth", "answer", "answerKey", "ground_truth", "final_answer", "label", "solution")


def find_keys(record: Record, prompt: str | None = None, answer: str | None = None) -> Keys:
    """The given keys. A key that is not given is a usual name that the record has. Raises ValueError if it has none."""
    prompt = prompt or next((key for key in _PROMPT_KEYS if _has(record, key)), None)
    answer = answer or next((key for key in _ANSWER_KEYS if _has(record, key)), None)
    if prompt is None or answer is None:
        raise ValueError(f"cannot tell question and answer among {sorted(record)}; give --prompt-key and --answer-key")
    return Keys(prompt, answer)


def _has(record: Record, key: str) -> bool:
    try:
        return lookup(record, key, "") is not None
    except ValueError:
        return False


class Preparation:
    """Cleans records one by one. `write` then writes those that are left."""

    def __init__(self, keys: Keys, spool: IO[bytes], instruction: str = "", excluded: Collection[str] = ()) -> None:
        """`spool` is an empty temporary file; `excluded` holds the `question_key`s of questions to leave out."""
        self.report = Report()
        self._keys = keys
        self._instruction = f"\n\n{instruction}" if instruction else ""
        self._excluded = {_hash(key) for key in excluded}
        self._seen: set[bytes] = set()  # hashes of prompts with their answers, as in the source
        self._answers: dict[bytes, bytes] = {}  # question -> its answer, both normalised and hashed
        self._spool = spool

    def add(self, line: int, record: Record | BadRow) -> None:
        """Takes the next record of the source."""
        self.report.read += 1
        if isinstance(record, BadRow):
            self.report.drop(MALFORMED, line, record.reason)
            return
        try:
            prompt, answer = self._texts(record)
        except ValueError as error:
            self.report.drop(MALFORMED, line, str(error))
            return
        exact = _hash(f"{len(prompt)} {prompt}{answer}")
        if exact in self._seen:
            self.report.drop(EXACT, line)
            return
        self._seen.add(exact)
        question = strip_wrapper(prompt)
        self.report.wrappers += question != prompt.strip()
        if reason := why_unanswerable(question, answer):
            self.report.drop(reason, line)
        else:
            self._add_question(line, question, answer, record)

    def _texts(self, record: Record) -> tuple[str, str]:
        """Prompt and answer. Either may be empty."""
        prompt = lookup(record, self._keys.prompt, "--prompt-key")
        gold = lookup(record, self._keys.answer, "--answer-key")
        answer = "" if gold is None or gold == [] else gold_text(gold)
        check_text(answer, self._keys.answer)
        return "" if prompt == "" else question_of(prompt, self._keys.prompt), answer

    def _add_question(self, line: int, question: str, answer: str, record: Record) -> None:
        key, gold = _hash(question_key(question)), _hash(answer_key(answer))
        known = self._answers.get(key)
        if key in self._excluded:
            self.report.drop(EXCLUDED, line)
        elif known == gold:
            self.report.drop(NORMALIZED, line)
        elif known is not None:
            if known != _CONTRADICTED:
                self.report.count(CONTRADICTION)  # for the earlier row, which is in the spool
                self._answers[key] = _CONTRADICTED
            self.report.drop(CONTRADICTION, line)
        else:
            self._answers[key] = gold
            row = {
                "prompt": question + self._instruction,
                "answer": answer.strip(),
                "id": source_id(record) or key.hex(),
            }
            self._spool.write(f"{key.hex()}{json.dumps(row, ensure_ascii=False)}\n".encode())

    def write(self, output: Output, held_out: int, seed: int, settings: Mapping[str, object]) -> None:
        """Writes the rows that are left. `held_out` of them, drawn with the seed, go to the held-out file.

        The manifest holds `settings`, the counts and a hash of each file. All files are written before the first one
        takes its place. The training file takes its place last. Raises UserError if too few rows are left.
        """
        report = self.report
        report.dropped = dict(sorted(report.dropped.items(), key=lambda item: (-item[1], item[0])))
        left = sum(answer != _CONTRADICTED for answer in self._answers.values())
        if left <= held_out:
            why = "; ".join(
                f"{count} x {reason} (line {report.examples[reason][0]})"
                for reason, count in list(report.dropped.items())[:3]
            )
            raise UserError(f"{left} of {report.read} rows are left, with {held_out} to hold out: {why or 'give more'}")
        report.kept, report.held_out = left - held_out, held_out
        drawn = set(random.Random(f"valid-{seed}").sample(range(left), held_out))
        with ExitStack() as stack:
            targets = [output.train, *([output.valid] if held_out else [])]
            paths = [stack.enter_context(replacing(path)) for path in targets]
            with ExitStack() as opened:
                files = [opened.enter_context(path.open("wb")) for path in paths]
                for index, line in enumerate(self._left()):
                    files[index in drawn].write(line)
            hashes = {target.name: file_hash(path) for target, path in zip(targets, paths, strict=True)}
            write_json_atomic(output.manifest, {**settings, "rows": asdict(report), "sha256": hashes})

    def _left(self) -> Iterator[bytes]:
        self._spool.seek(0)
        for line in self._spool:
            if self._answers[bytes.fromhex(line[: 2 * _HASH_BYTES].decode())] != _CONTRADICTED:
                yield line[2 * _HASH_BYTES :]


@dataclass(frozen=True)
class Output:
    """The files of one preparation in one folder: X.jsonl, X_valid.jsonl and X.jsonl.manifest.json."""

    train: Path

    @property
    def valid(self) -> Path:
        """The file of the held-out rows."""
        return self.train.with_name(f"{self.train.stem}_valid{self.train.suffix}")

    @property
    def manifest(self) -> Path:
        """The file of settings, counts and hashes."""
        return self.train.with_name(f"{self.train.name}.manifest.json")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=_HASH_BYTES).digest()


def source_id(record: Record) -> str | None:
    """The id that the source itself gives a record; None if it gives none."""
    info = record.get("extra_info")
    for value in (info.get("index") if isinstance(info, dict) else None, record.get("id"), record.get("unique_id")):
        if isinstance(value, str | int) and value != "":
            return str(value)
    return None
