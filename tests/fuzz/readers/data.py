"""Readers of data sets, benchmarks, answers of other programs, caches, and what the hub lists."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import AnswerKind, OnBadRow
from s2l_nemo.data.benchmarks import benchmark_record, load_benchmark
from s2l_nemo.data.prepare import Preparation, find_keys, json_line, source_id
from s2l_nemo.data.rows import read_rows
from s2l_nemo.data.sources import BadRow, read_records
from s2l_nemo.data.token_cache import _read as read_tokens
from s2l_nemo.evaluation.raw import read_raw
from s2l_nemo.hub.names import HubName, Kind
from s2l_nemo.hub.snapshots import Hub, _kept
from s2l_nemo.store.sampling.imported import read_rollouts
from s2l_nemo.types import Prompt
from tests.fuzz.mutate import Mutate, damage, gzip_damage, json_damage, json_lines_damage, mixed
from tests.fuzz.reader import Harness, Reader

ROWS = (
    {"prompt": "What is 1 + 1?", "answer": "2", "id": 1},
    {"prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1/2?"}], "answer": 0.5},
    {"prompt": "Which?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answer": "B"},
    {"prompt": "Solve.", "answer": "so it is\n#### 42"},
    {"prompt": "Ünïcode \u2081", "answer": ["1", 2]},
)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b'prompt,answer,id\n"What, then?",2,a\n"Two ""lines""\nhere",3,b\n'


def rows(path: Path) -> Callable[[bytes], None]:
    source = DataSource(str(path), "prompt", "answer", None)

    def read(_: bytes) -> None:
        read_rows(source, OnBadRow.skip)
        read_rows(source, OnBadRow.error)

    return read


def rows_of(name: str, seeds: list[bytes], mutate: Mutate) -> Callable[[Path], Harness]:
    return lambda folder: Harness(seeds, rows(folder / name), folder / name, mutate)


def parquet_bytes(columns: dict[str, object], compression: str = "none") -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, compression=compression)
    return buffer.getvalue()


def parquet_rows(folder: Path) -> Harness:
    plain = {"prompt": ["1 + 1?", "ab", "?"], "answer": ["2", "3", "4"], "more": [1.5, 2.5, None]}
    nested = {"prompt": [[{"role": "user", "content": "1?"}]] * 2, "reward_model": [{"ground_truth": "3"}] * 2}
    seeds = [parquet_bytes(plain), parquet_bytes(plain, "zstd"), parquet_bytes({**nested, "answer": [1, 2]})]
    return Harness(seeds, rows(folder / "x.parquet"), folder / "x.parquet")


def prepared(folder: Path) -> Harness:
    """What prepare_data.py does with each record of a source, of any of the forms that it knows."""

    class Believing:
        def unreadable(self, golds: Sequence[str]) -> list[str | None]:
            return [None] * len(golds)

        def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
            return [True] * len(pairs)

    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1/2?"}]
    texts = [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]
    records: list[dict[str, Any]] = [
        {"prompt": "1 + 1?", "reward_model": {"ground_truth": "2"}, "extra_info": {"index": "a-1"}},
        {"prompt": turns, "answer": 0.5, "id": "x"},
        {"question": {"stem": "Which?", "choices": texts}, "answerKey": "B", "unique_id": 3},
        {"question": "Which?", "choices": ["A) x", "B) y"], "answer": 1, "id": 7},
        {"problem": "What?", "options": {"A": "x", "B": "y"}, "answer": "A"},
        {"question": "How many?", "solution": "so it is\n#### 42", "source": "TP_x"},
    ]

    def read(_: bytes) -> None:
        with (folder / "spool").open("w+b") as spool:
            preparation = Preparation(find_keys(records[0]), spool, Believing())
            for line, record in read_records(str(path)):
                if isinstance(record, BadRow):
                    preparation.add(line, record)
                    continue
                try:
                    keys = find_keys(record)
                    row = benchmark_record(record, keys.prompt, keys.answer)
                except ValueError:  # which the tools say in one line
                    continue
                Preparation(keys, spool, Believing()).add(line, record)
                json_line({**row, "id": source_id(record)})

    path = folder / "x.jsonl"
    seeds = [json.dumps(record).encode() + b"\n" for record in records]
    return Harness(seeds, read, path, json_lines_damage, may_write=True)


def benchmark(folder: Path) -> Harness:
    math = [{"question": "1 + 1?", "answer": "2", "source": "TP_x"}, {"question": "x?", "answer": 3}]
    choice = [{"question": "?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "A"}]
    seeds = ["".join(json.dumps(row) + "\n" for row in part).encode() for part in (math, choice)]

    def read(content: bytes) -> None:
        kind = AnswerKind.choice if b"answerKey" in content else AnswerKind.math
        load_benchmark("bench", folder, kind)

    return Harness(seeds, read, folder / "bench.jsonl", json_lines_damage)


def raw_answers(folder: Path) -> Harness:
    row = {
        "id": 1,
        "question": "?",
        "answer": "2",
        "outputs": ["a", "b"],
        "tokens": [1, 2],
        "finish_reasons": ["stop", "length"],
    }
    seed = (json.dumps(row) + "\n" + json.dumps({**row, "id": "two", "answer": 3}) + "\n").encode()
    return Harness([seed], lambda _: list(read_raw(folder / "b_raw.jsonl")), folder / "b_raw.jsonl", json_lines_damage)


def imported(folder: Path) -> Harness:
    prompts = [Prompt(0, "1 + 1?", "2", (1,)), Prompt(1, "2 + 2?", "4", (2,))]
    many = {"prompt": "1 + 1?", "responses": ["2", "3"], "scores": [1, 0.0]}
    one = {"prompt": [{"role": "user", "content": "2 + 2?"}], "response": "4", "response_ids": [1, 2], "reward": 1}
    seed = (json.dumps(many) + "\n" + json.dumps(one) + "\n").encode()
    path = folder / "rollouts.jsonl"
    return Harness([seed], lambda _: read_rollouts(path, prompts), path, json_lines_damage)


def token_cache(folder: Path) -> Harness:
    """With a checksum that is right: the folder may be shared with others."""

    def read(content: bytes) -> None:
        path.write_bytes(content + hashlib.sha256(content).digest())
        read_tokens(path, 3)

    path, buffer = folder / "x.npy", io.BytesIO()
    np.save(buffer, np.array([2, 1, 2, 5, 6, 7, 8, 9], "<i4"))
    return Harness([buffer.getvalue()], read, may_write=True)


def hub_listing(folder: Path) -> Harness:
    hub, name, commit = Hub("http://localhost:1", folder, True), HubName(Kind.model, "a/b"), "0" * 40
    path = folder / "models--a--b" / "listings" / f"{commit}.json"
    path.parent.mkdir(parents=True)
    seed = json.dumps({"config.json": 12, "model.safetensors": None, "x/y.json": 0}).encode()
    return Harness([seed], lambda _: _kept("model.path=a/b", hub, name, commit), path, json_damage)


READERS = (
    Reader("jsonl", ("data.json_file", "data.rows"), rows_of("x.jsonl", [LINES], json_lines_damage)),
    Reader("json-array", ("data.json_file",), rows_of("x.json", [json.dumps(ROWS).encode()], json_damage)),
    Reader(
        "jsonl-gz",
        ("data.opened",),
        rows_of("x.jsonl.gz", [gzip.compress(LINES), gzip.compress(LINES, 0)], mixed(damage, gzip_damage)),
    ),
    Reader("csv", ("data.csv_file",), rows_of("x.csv", [CSV, CSV.replace(b",", b"\t")], damage)),
    Reader("parquet", ("data.sources",), parquet_rows),
    Reader("prepared", ("data.benchmarks",), prepared),
    Reader("benchmark", ("data.benchmarks",), benchmark),
    Reader("raw-answers", ("evaluation.raw",), raw_answers),
    Reader("imported-rollouts", ("store.sampling.imported",), imported),
    Reader("token-cache", ("data.token_cache",), token_cache),
    Reader("hub-listing", ("hub.snapshots",), hub_listing),
)
