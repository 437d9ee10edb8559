"""An open store: what is drawn, what is refused, and an index that is made again when it must be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.store import reader
from s2l_nemo.store.index import ROW, Index
from s2l_nemo.store.reader import Store
from s2l_nemo.store.shards import FOLDER, Rollout, Shard, write_shard
from s2l_nemo.types import Completion, Prompt, SamplingParams, Source
from tests.arrays import ids, lps, tokens_of
from tests.store.sampling.command import PRELOADED
from tests.store.stores import LIMIT, PARAMS, PROMPTS, STOP, facts_of, rollout, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("store") / "one"))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Store.open(folder)
    return str(caught.value)


def test_figures(store: Store) -> None:
    assert (store.rollouts, store.samples, store.has_logprobs) == (12, 4, True)
    assert store.counts == {3: 4, 5: 4, 11: 4}
    assert (store.count(5), store.count(4)) == (4, 0)
    assert store.lengths(5).tolist() == [6, 2, 4, 6]
    assert store.stopped(5).tolist() == [False, True, True, False]
    assert store.rewards(5).tolist() == [0, 1, 0, 1]
    assert store.rewards(4).tolist() == []
    assert list(store.prompts()) == PROMPTS
    assert store.facts == facts_of()


def test_a_draw_by_hand(store: Store) -> None:
    assert store.draw(5, [2, 0], source=Source.EXPLORER) == [
        Completion(5, 2, Source.EXPLORER, ids([5, 22, 40, STOP]), lps([-2.125, -2.25, -2.375, -2.5]), "stop", 0),
        Completion(
            5, 0, Source.EXPLORER, ids([5, 20, 40, 41, 42, 43]), lps([-0.125, -0.25, -0.375, -0.5, -0.625, -0.75]),
            "length", 0,
        ),
    ]  # fmt: skip
    assert store.draw(5, [], source=Source.EXPLORER) == []


def test_a_completion_has_all_fields_and_can_be_replaced(store: Store) -> None:
    [drawn] = store.draw(3, [1], source=Source.LEARNER, sample_ids=[7])
    assert (
        vars(Completion(3, 7, Source.LEARNER, drawn.token_ids, drawn.logprobs, "length", 0)).keys()
        >= vars(drawn).keys()
    )
    assert (drawn.reward, drawn.answer, drawn.grader_error, drawn.kept) == (None, None, None, True)
    graded = replace(drawn, reward=1.0)
    assert (graded.sample_id, graded.source, graded.reward) == (7, Source.LEARNER, 1.0)
    drawn.token_ids[0] = 1  # as any engine's, it belongs to whom it was given
    assert store.draw(3, [1], source=Source.EXPLORER)[0].token_ids[0] == 3


@given(
    asked=st.lists(st.tuples(st.sampled_from([3, 5, 11]), st.integers(0, 3)), max_size=20),
    limit=st.none() | st.integers(1, LIMIT + 1),
    gap=st.sampled_from([0, 20, 65536]),
)
def test_every_draw_is_what_was_written(
    store: Store, asked: list[tuple[int, int]], limit: int | None, gap: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_GAP", gap)
        drawn = store.draw_all(
            [one for one, _ in asked], [n for _, n in asked], sample_ids=range(len(asked)), source=Source.EXPLORER,
            limit=limit,
        )  # fmt: skip
    for index, ((prompt_id, n), completion) in enumerate(zip(asked, drawn, strict=True)):
        written = rollout(prompt_id, n)
        is_cut = limit is not None and len(written.token_ids) > limit
        assert completion == Completion(
            prompt_id, index, Source.EXPLORER, written.token_ids[:limit], _logprobs(written)[:limit],
            "length" if is_cut else written.finish_reason, 0,
        )  # fmt: skip


def _logprobs(written: Rollout) -> Any:
    assert written.logprobs is not None
    return written.logprobs


@pytest.mark.parametrize(("prompt_id", "position", "stored"), [(5, 4, 4), (5, -1, 4), (4, 0, 0), (99, 0, 0)])
def test_a_position_that_is_not_there(store: Store, prompt_id: int, position: int, stored: int) -> None:
    message = f"has {stored} samples of prompt {prompt_id}, and position {position} was asked for"
    with pytest.raises(UserError, match=message):
        store.draw(prompt_id, [0, position], source=Source.EXPLORER)


def test_without_log_probs_they_are_zeros(tmp_path: Path) -> None:
    rollouts = [replace(rollout(one.prompt_id, n), logprobs=None) for one in PROMPTS for n in (0, 1)]
    store = Store.open(write_store(tmp_path / "store", [rollouts], facts_of(has_logprobs=False)))
    assert not store.has_logprobs
    drawn = store.draw(5, [1, 0], source=Source.EXPLORER)
    assert tokens_of(drawn) == [[5, STOP], [5, 20, 40, 41, 42, 43]]
    assert [one.logprobs.tolist() for one in drawn] == [[0.0] * 2, [0.0] * 6]
    with pytest.raises(UserError, match="no log-probs of its sampler"):
        store.check(needs_logprobs=True)
    store.check(needs_logprobs=False)


def test_an_empty_store_opens(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "store", []))
    assert (store.rollouts, store.samples, store.counts) == (0, 0, {})
    with pytest.raises(UserError, match="has 0 samples of prompt 3"):
        store.draw(3, [0], source=Source.EXPLORER)


def test_a_prompt_that_was_not_sampled_counts(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "store", [[rollout(3, 0), rollout(11, 0)]]))
    assert (store.samples, store.count(5)) == (0, 0)
    with pytest.raises(UserError, match=r"has 0 samples of prompt 5, the run needs 1 \(1 of 3 prompts have too few\)"):
        store.check(samples=1)
    store.check(samples=1, prompts=[PROMPTS[0], PROMPTS[2]])


def test_two_files_with_one_rollout_are_both_named(tmp_path: Path) -> None:
    message = refusal(
        write_store(tmp_path / "store", [[rollout(3, 0), rollout(5, 1)], [rollout(3, 1)], [rollout(5, 1)]])
    )
    assert "rollouts/0.parquet and 2.parquet both hold prompt 5 sample 1" in message


def test_a_missing_sample_is_named(tmp_path: Path) -> None:
    message = refusal(write_store(tmp_path / "store", [[rollout(3, 0), rollout(3, 1)], [rollout(3, 3)]]))
    assert "prompt 3 has no sample 2 but sample 3" in message
    assert "rollouts/1.parquet" in message


def test_a_bad_shard_is_named_and_leaves_no_index(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    path = folder / FOLDER / "1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert str(path) in refusal(folder)
    path.write_bytes(whole)
    assert Store.open(folder).rollouts == 12
    assert len([one for one in (folder / "index").iterdir() if one.is_dir()]) == 1


def test_the_index_is_made_once_and_again_for_other_shards(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", [[rollout(one.prompt_id, 0) for one in PROMPTS]])
    seen: list[tuple[int, int]] = []

    def opened() -> Store:
        seen.clear()
        return Store.open(folder, on_shard=lambda done, total: seen.append((done, total)))

    old = opened()
    assert seen == [(0, 1), (1, 1)]
    assert opened().samples == 1
    assert seen == []
    more = Shard.of([rollout(one.prompt_id, 1) for one in PROMPTS])
    write_shard(folder / FOLDER / "more.parquet", more, facts_of(), "embedded")
    assert opened().samples == 2
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert len([one for one in (folder / "index").iterdir() if one.is_dir()]) == 1
    assert tokens_of(old.draw(5, [0], source=Source.EXPLORER)) == [[5, 20, 40, 41, 42, 43]]  # its file is open still


def open_and_count(folder: Path, together: Any, results: Any) -> None:
    seen = []
    together.wait()
    store = Store.open(folder, on_shard=lambda done, total: seen.append(done))
    results.put((len(seen), store.rollouts, tokens_of(store.draw(5, [1], source=1))))


def test_processes_that_open_a_store_at_once_make_one_index(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    together, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=open_and_count, args=(folder, together, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, 12, [[5, STOP]])] * 3 + [(3, 12, [[5, STOP]])]


@pytest.mark.parametrize("name", ["rows.npy", "rewards.npy", "data.bin", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_index_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    folder = write_store(tmp_path / "store")
    Store.open(folder).close()
    [path] = (folder / "index").glob(f"*/{name}")
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] if damage == "cut" else b"{}" + content)
    assert tokens_of(Store.open(folder).draw(5, [1], source=Source.EXPLORER)) == [[5, STOP]]


def npy(header: str) -> bytes:
    """A file of numpy's format 1.0 with this head and no items."""
    padded = header + " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


def changed(field: str, value: int) -> Callable[[Any], bytes]:
    def change(rows_R: Any) -> bytes:
        file, copy_R = io.BytesIO(), rows_R.copy()
        copy_R[field][1] = value
        np.save(file, copy_R)
        return file.getvalue()

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"no array",
        lambda _: npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}"),
        lambda _: npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}"),
        lambda _: npy("[" * 3000),
        changed("length", 2**31 - 1),
        changed("length", -1),
        changed("offset", 2**62),
        changed("offset", -4),
        changed("offset", 1),
        changed("sample", 5),
        changed("prompt_id", -1),
        changed("prompt_id", 2**62),
    ],
)
def test_an_index_of_a_stranger_with_right_checksums_is_made_again(
    tmp_path: Path, change: Callable[[Any], bytes]
) -> None:
    folder = write_store(tmp_path / "store")
    Store.open(folder).close()
    [path] = (folder / "index").glob("*/rows.npy")
    path.write_bytes(content := change(np.load(path)))
    head = json.loads((path.parent / "index.json").read_text())
    head["sha256"]["rows.npy"] = hashlib.sha256(content).hexdigest()
    (path.parent / "index.json").write_text(json.dumps(head))
    made: list[int] = []
    store = Store.open(folder, on_shard=lambda done, total: made.append(done))
    assert made
    assert tokens_of(store.draw(5, [1], source=Source.EXPLORER)) == [[5, STOP]]
    store.close()


@pytest.mark.parametrize("first", [0, 8 << 30, 9 << 30])
def test_rollouts_beyond_8_gib_are_found(tmp_path: Path, first: int) -> None:
    """A sparse file: nothing but two rollouts of two tokens lies in it."""
    (tmp_path / "data.bin").touch()
    os.truncate(tmp_path / "data.bin", first)
    with (tmp_path / "data.bin").open("ab") as file:
        for tokens, logprobs in (([5, 6], [-1, -2]), ([7, 8], [-3, -4])):
            file.write(np.array(tokens, np.int32).tobytes() + np.array(logprobs, np.float32).tobytes())
    rows_R = np.zeros(2, ROW)
    rows_R["sample"], rows_R["length"], rows_R["offset"] = [0, 1], 2, [first, first + 16]
    store = Store(tmp_path, facts_of(), Index(rows_R, np.zeros(2, np.float32), (tmp_path / "data.bin").open("rb", 0)))
    assert tokens_of(store.draw(0, [1, 0], source=Source.EXPLORER)) == [[7, 8], [5, 6]]
    assert store.draw(0, [1], source=Source.EXPLORER)[0].logprobs.tolist() == [-3, -4]
    store.close()


@pytest.mark.parametrize("longest", [65535, 65536, 70000])
def test_lengths_that_two_bytes_hold_and_longer_ones(tmp_path: Path, longest: int) -> None:
    tokens = np.arange(longest + 1, dtype=np.int32)
    words = [tokens[:longest], np.full(longest, 0.5, np.float32), tokens[-1:], np.full(1, 0.25, np.float32)]
    (tmp_path / "data.bin").write_bytes(b"".join(word.tobytes() for word in words))
    rows_R = np.zeros(2, ROW)
    rows_R["sample"], rows_R["length"], rows_R["offset"] = [0, 1], [longest, 1], [0, 8 * longest]
    store = Store(tmp_path, facts_of(), Index(rows_R, np.zeros(2, np.float32), (tmp_path / "data.bin").open("rb", 0)))
    assert store.lengths(0).tolist() == [longest, 1]
    long, short = store.draw(0, [0, 1], source=Source.EXPLORER)
    assert long.token_ids.tolist() == tokens[:longest].tolist()
    assert (short.token_ids.tolist(), short.logprobs.tolist()) == ([longest], [0.25])
    store.close()


def test_a_file_that_is_cut_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    store = Store.open(folder)
    [path] = (folder / "index").glob("*/data.bin")
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(UserError, match="was cut while it was open"):
        store.draw(11, range(4), source=Source.EXPLORER)


def test_an_index_elsewhere_leaves_other_things_alone(tmp_path: Path) -> None:
    folder, home = write_store(tmp_path / "store"), tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    other = write_store(tmp_path / "other", facts=facts_of(seed=8))
    for one in (folder, other, folder):
        Store.open(one, index=home).close()
    assert not (folder / "index").exists()
    assert len([path for path in home.iterdir() if path.is_dir()]) == 3


def test_an_index_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    (folder / "index").write_text("a file")
    assert "cannot write the index" in refusal(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("whole") / "store")


@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_store_is_refused_or_gives_the_same(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["store.json", "prompts.parquet", f"{FOLDER}/0.parquet", f"{FOLDER}/1.parquet"]))
    path = whole / name
    good = path.read_bytes()
    content = bytearray(good)
    place = data.draw(st.integers(0, len(content) - 1), "place")
    if data.draw(st.booleans(), "flip"):
        content[place] ^= data.draw(st.integers(1, 255), "bits")
    else:
        del content[place:]
    path.write_bytes(content)
    try:
        store = Store.open(whole)
        drawn = store.draw_all([3, 5, 11], [3, 1, 0], sample_ids=[0, 1, 2], source=1)
        found = f"{tokens_of(drawn)} {[one.text for one in store.prompts()]}"
    except UserError as error:
        found = str(error)
    finally:
        path.write_bytes(good)
    texts = [one.text for one in PROMPTS]
    expected = [rollout(prompt_id, n).token_ids.tolist() for prompt_id, n in ((3, 3), (5, 1), (11, 0))]
    assert str(whole) in found or found == f"{expected} {texts}"


def test_a_copied_store_opens(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    Store.open(folder).close()
    assert Store.open(shutil.copytree(folder, tmp_path / "copy")).rollouts == 12


def test_a_store_that_fits(store: Store) -> None:
    store.check(tokenizer_hash="b" * 64, prompts=PROMPTS, samples=4, params=PARAMS, needs_logprobs=True)
    store.check(prompts=PROMPTS[1:], params=replace(PARAMS, max_new_tokens=2))
    store.check()


@pytest.mark.parametrize(
    ("wanted", "fragment"),
    [
        ({"tokenizer_hash": "e" * 64}, f"sampled with tokenizer {'b' * 12} (some/model), the run has {'e' * 12}"),
        ({"params": replace(PARAMS, temperature=0.5)}, "sampled with temperature=1.0, the run asks for 0.5"),
        ({"params": replace(PARAMS, top_p=0.5)}, "sampled with top_p=1.0, the run asks for 0.5"),
        ({"params": replace(PARAMS, top_k=5)}, "sampled with top_k=0, the run asks for 5"),
        ({"params": replace(PARAMS, stop_token_ids=(1,))}, "sampled with stop_token_ids=[9], the run asks for [1]"),
        ({"params": replace(PARAMS, max_new_tokens=7)}, "sampled with max_response_length=6, the run asks for 7"),
        ({"samples": 5}, "has 4 samples of prompt 3, the run needs 5 (3 of 3 prompts have too few)"),
        ({"prompts": [replace(PROMPTS[2], answer="12")]}, "prompt 11 has answer '12' in the run and '11' in the store"),
        ({"prompts": [*PROMPTS, Prompt(12, "?", "1", (1,))]}, "prompt 12 of the run ('?') is not among its 3 prompts"),
    ],
)
def test_a_store_that_does_not_fit_says_where(store: Store, wanted: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        store.check(**wanted)
    assert str(store.folder) in str(caught.value)
    assert fragment in str(caught.value)


def test_a_cut_rollout_is_what_a_lower_limit_would_have_sampled(store: Store) -> None:
    params = SamplingParams(2, (STOP,))
    store.check_sampling(params)
    drawn = store.draw(5, range(4), source=Source.EXPLORER, limit=2)
    assert tokens_of(drawn) == [[5, 20], [5, STOP], [5, 22], [5, 23]]
    assert [one.finish_reason for one in drawn] == ["length", "stop", "length", "length"]
    assert all(len(one.logprobs) == 2 for one in drawn)
    assert np.isfinite([one.logprobs for one in drawn]).all()
