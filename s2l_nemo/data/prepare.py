"""Makes a training file of a public data set: bare questions with answers that can be graded, each once.

Rows are read in source order. A later row may contradict an earlier one, so the rows that stay so far go to a temporary
file. Only their hashes and answers are kept in memory, about 400 bytes for each different question.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.choices import find_choices
from s2l_nemo.data.normalize import answer_key, question_key, strip_wrapper, why_unanswerable
from s2l_nemo.data.rows import chat_of, gold_text, lookup
from s2l_nemo.data.sources import BadRow, Record
from s2l_nemo.data.texts import check_text
from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing, write_json_atomic

MALFORMED = "malformed row"
EXACT = "exact duplicate"
NORMALIZED = "duplicate after normalisation"
CONTRADICTION = "same question with different answers"
UNREADABLE = "answer that the reward cannot read"
EXCLUDED = "question of an excluded file"
_EXAMPLES = 3  # lines that are named for each reason
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
    kinds: dict[str, int] = field(default_factory=dict)  # kind of answer -> rows that are left

    def drop(self, reason: str, line: int, detail: str = "") -> None:
        """Counts a dropped row."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{line}: {detail}" if detail else str(line))


@dataclass(frozen=True)
class Keys:
    """Where a record holds its question and its gold answer: field names or dotted paths."""

    prompt: str
    answer: str


DAPO = Keys("prompt", "reward_model.ground_truth")
_PROMPT_KEYS = ("prompt", "question.stem", "question", "question_stem", "problem")
_ANSWER_KEYS = (
    "reward_model.ground_truth", "answer", "answerKey", "ground_truth", "final_answer", "label", "solution",
)  # fmt: skip


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


class Judge(Protocol):
    """What the reward of a training run would say about gold answers. The caller need not know how it finds out."""

    def unreadable(self, golds: Sequence[str]) -> list[str | None]:
        """Why no response could be graded against each gold answer; None if one can be."""
        ...

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the two answers of each pair have the same value."""
        ...


@dataclass
class _Question:
    """A question of the output, if nothing speaks against it."""

    answer: str
    line: int
    kind: AnswerKind
    repeats: list[tuple[int, str]] = field(default_factory=list)  # lines that ask it again, with their answers


@dataclass(frozen=True)
class Item:
    """What a record holds. Question and answer may be empty. `choices` are listed, "" if there are none."""

    system: str | None
    question: str
    choices: str
    answer: str

    @property
    def kind(self) -> AnswerKind:
        return AnswerKind.choice if self.choices else AnswerKind.math

    def asked(self, question: str) -> str:
        """A question with the choices."""
        return f"{question}\n\n{self.choices}" if self.choices else question


def item_of(record: Record, keys: Keys) -> Item:
    """Raises ValueError if a field is missing or malformed, or if the answer is none of the choices."""
    prompt = lookup(record, keys.prompt, "--prompt-key")
    gold = lookup(record, keys.answer, "--answer-key")
    answer = "" if gold is None or gold == [] else gold_text(gold)
    check_text(answer, keys.answer)
    system, question = (None, "") if prompt == "" else chat_of(prompt, keys.prompt)
    choices = find_choices(record, gold, keys.answer) if answer else None
    if choices is None:
        return Item(system, question, "", answer)
    return Item(system, question, choices.listed(), choices.gold)


class Preparation:
    """Cleans records one by one. `write` then writes those that are left."""

    def __init__(
        self,
        keys: Keys,
        spool: IO[bytes],
        judge: Judge,
        instructions: Mapping[AnswerKind, str] | None = None,
        excluded: Collection[str] = (),
    ) -> None:
        """`spool` is an empty temporary file.

        `instructions` are put after questions by the kind of their answers. `excluded` holds the `question_key`s of
        questions to leave out.
        """
        self.report = Report()
        self._keys = keys
        self._judge = judge
        self._instructions = instructions or {}
        self._excluded = {_hash(key) for key in excluded}
        self._seen: set[bytes] = set()  # hashes of prompts with their answers, as in the source
        self._questions: dict[bytes, _Question] = {}  # by the hash of the normalised question with its choices
        self._spool = spool

    def add(self, line: int, record: Record | BadRow) -> None:
        """Takes the next record of the source."""
        self.report.read += 1
        if isinstance(record, BadRow):
            self.report.drop(MALFORMED, line, record.reason)
            return
        try:
            item = item_of(record, self._keys)
        except ValueError as error:
            self.report.drop(MALFORMED, line, str(error))
            return
        exact = _hash("\0".join((item.system or "", item.question, item.choices, item.answer)))  # none holds a NUL
        if exact in self._seen:
            self.report.drop(EXACT, line)
            return
        self._seen.add(exact)
        question = strip_wrapper(item.question)
        self.report.wrappers += question != item.question.strip()
        if reason := why_unanswerable(question, item.answer):
            self.report.drop(reason, line)
        elif (key := _hash(question_key(question))) in self._excluded:
            self.report.drop(EXCLUDED, line)
        else:
            text = item.asked(question)
            self._add_question(line, key if text == question else _hash(question_key(text)), text, item, record)

    def _add_question(self, line: int, key: bytes, text: str, item: Item, record: Record) -> None:
        answer, system = item.answer.strip(), strip_wrapper(item.system or "")
        known = self._questions.setdefault(key, _Question(answer, line, item.kind))
        if known.line != line:
            known.repeats.append((line, answer))
            return
        if instruction := self._instructions.get(item.kind):
            text = f"{text}\n\n{instruction}"
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        row = {"prompt": turns if system else text, "answer": answer, "id": source_id(record) or key.hex()}
        self._spool.write(key.hex().encode() + json_line(row))

    def write(self, output: Output, held_out: int, seed: int, settings: Mapping[str, object]) -> None:
        """Writes the rows that are left. `held_out` of them, drawn with the seed, go to the held-out file.

        The manifest holds `settings`, the counts and a hash of each file. All files are written before the first one
        takes its place. The training file takes its place last. Raises UserError if too few rows are left.
        """
        self._settle()
        self._drop_unreadable()
        report, left = self.report, len(self._questions)
        report.dropped = dict(sorted(report.dropped.items(), key=lambda item: (-item[1], item[0])))
        if left <= held_out:
            why = "; ".join(
                f"{count} x {reason} (line {report.examples[reason][0]})"
                for reason, count in list(report.dropped.items())[:3]
            )
            raise UserError(f"{left} of {report.read} rows are left, with {held_out} to hold out: {why or 'give more'}")
        report.kept, report.held_out = left - held_out, held_out
        report.kinds = dict(Counter(question.kind.value for question in self._questions.values()))
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

    def _settle(self) -> None:
        """Drops repetitions: all but the first row if the answers have one value, whole questions if they differ."""
        others = {
            key: sorted({answer for _, answer in question.repeats if answer_key(answer) != answer_key(question.answer)})
            for key, question in self._questions.items()
            if question.repeats
        }
        verdicts = iter(self._judge.same([(self._questions[key].answer, one) for key in others for one in others[key]]))
        for key, answers in others.items():
            question = self._questions[key]
            if all(list(islice(verdicts, len(answers)))):
                for line, _ in question.repeats:
                    self.report.drop(NORMALIZED, line)
            else:
                for line, answer in [(question.line, question.answer), *question.repeats]:
                    self.report.drop(CONTRADICTION, line, f"{answer!r:.40}")
                del self._questions[key]

    def _drop_unreadable(self) -> None:
        golds = list(dict.fromkeys(one.answer for one in self._questions.values() if one.kind is not AnswerKind.choice))
        reasons = dict(zip(golds, self._judge.unreadable(golds), strict=True))
        for key, question in list(self._questions.items()):
            reason = None if question.kind is AnswerKind.choice else reasons[question.answer]
            if reason is not None:
                self.report.drop(UNREADABLE, question.line, f"{question.answer!r:.40}: {reason}")
                del self._questions[key]

    def _left(self) -> Iterator[bytes]:
        self._spool.seek(0)
        for line in self._spool:
            if bytes.fromhex(line[: 2 * _HASH_BYTES].decode()) in self._questions:
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


def json_line(row: Mapping[str, object]) -> bytes:
    """A row as a line of JSON. Half a surrogate pair in an id stays the escape that it was in the source."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=_HASH_BYTES).digest()


def source_id(record: Record) -> str | None:
    """The id that the source itself gives a record; None if it gives none."""
    info = record.get("extra_info")
    for value in (info.get("index") if isinstance(info, dict) else None, record.get("id"), record.get("unique_id")):
        if isinstance(value, str | int) and value != "":
            return str(value)
    return None
