"""Engines in real server processes: the same samples as in this process, whatever happens to the server."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch

from s2l_nemo.algorithm.groups import assemble_groups
from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import Bucket, EngineDied, EngineError, EngineHung
from s2l_nemo.engines.served import process
from s2l_nemo.engines.served.client import ServedEngine, ServedLearnerEngine
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams, Source
from tests.agreement import assert_same_completions
from tests.distributed.models import VOCAB, write_qwen3

CPU = torch.device("cpu")
PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=(258, 7))
LAUNCHER = {
    "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    "SLURM_PROCID": "0", "PMI_RANK": "0", "PMIX_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "TORCHELASTIC_RUN_ID": "x",
}  # fmt: skip


def make_requests(prompts: int = 3, samples: int = 4) -> list[SampleRequest]:
    rng = random.Random(0)
    texts = [tuple(rng.randrange(VOCAB) for _ in range(rng.randint(2, 9))) for _ in range(prompts)]
    return [
        SampleRequest(prompt, sample, tokens, 100 * prompt + sample)
        for prompt, tokens in enumerate(texts)
        for sample in range(samples)
    ]


REQUESTS = make_requests()


def factory(config: EngineConfig, folder: Path) -> EngineFactory:
    return EngineFactory(
        config,
        Precision.fp32,
        CPU,
        max_batch_rows=8,
        max_sequence_length=64,
        servers=Servers(0, folder / "logs"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_qwen3(folder / "model", layers=2)


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[None]:
    """What a launcher sets, while the servers start, and where a killed supervisor leaves its engine's files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        for name, value in LAUNCHER.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def explorer_config() -> EngineConfig:
    return EngineConfig(kind="server", max_restarts=3, explorer_devices="3")


@pytest.fixture(scope="module")
def explorer_model(folder: Path) -> Path:
    """The same weights as `model`."""
    return write_qwen3(folder / "explorer", layers=2)


@pytest.fixture(scope="module")
def explorer(
    explorer_model: Path,
    folder: Path,
    explorer_config: EngineConfig,
    environment: None,  # noqa: ARG001  must be set before; a fixture takes no `usefixtures`
) -> Iterator[ServedEngine]:
    served = factory(explorer_config, folder).explorer(open_model("explorer.path", str(explorer_model)))
    assert isinstance(served, ServedEngine)
    with closing(served):
        yield served


@pytest.fixture(scope="module")
def learner_config() -> EngineConfig:
    return EngineConfig(kind="server")


@pytest.fixture(scope="module")
def learner(model: Path, folder: Path, learner_config: EngineConfig) -> Iterator[ServedLearnerEngine]:
    served = factory(learner_config, folder).learner(open_model("model.path", str(model)))
    assert isinstance(served, ServedLearnerEngine)
    with closing(served):
        yield served


@pytest.fixture(scope="module")
def embedded(model: Path, folder: Path) -> EmbeddedLearnerEngine:
    """The same model in this process."""
    engine = factory(EngineConfig(), folder).learner(open_model("model.path", str(model)))
    assert isinstance(engine, EmbeddedLearnerEngine)
    return engine


def processes(served: ServedEngine) -> tuple[int, int]:
    """Supervisor and engine."""
    supervisor = served._connection._process._process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    assert len(children) == 1
    return supervisor, int(children[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def buckets_of(engine: EmbeddedEngine, seed: int) -> list[Bucket]:
    """New weights for every tensor, in buckets of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in engine._weights().items()}
    names = list(weights)
    cuts = [0, 1, 4, len(names) - 2, len(names)]
    return [{name: weights[name] for name in names[start:end]} for start, end in itertools.pairwise(cuts)]


class TestExplorer:
    def test_same_samples_as_in_this_process(self, explorer: ServedEngine, model: Path) -> None:
        here = EmbeddedEngine.from_pretrained(
            str(model), source=Source.EXPLORER, device=CPU, dtype=torch.float32, max_batch_rows=8
        )
        for params in (PARAMS, SamplingParams(16, (), temperature=0.7, top_p=0.9, top_k=40, presence_penalty=0.5)):
            assert_same_completions(explorer.generate(REQUESTS, params), here.generate(REQUESTS, params))
        assert explorer.generate([], PARAMS) == []
        assert explorer.weight_hash() == here.weight_hash()

    def test_its_errors_come_over(self, explorer: ServedEngine) -> None:
        with pytest.raises(ValueError, match="lower max_new_tokens"):
            explorer.generate(REQUESTS, SamplingParams(300, ()))
        explorer.sleep()  # which this kind of engine cannot
        explorer.resume()
        assert len(explorer.generate(REQUESTS, PARAMS)) == len(REQUESTS)
        assert explorer.restarts == 0

    def test_its_process_shows_no_secret_and_is_no_rank(self, explorer: ServedEngine, folder: Path) -> None:
        token = explorer._connection._process.token.encode()
        for pid in processes(explorer):
            variables = dict(
                entry.split(b"=", 1) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry
            )
            assert not variables.keys() & {name.encode() for name in LAUNCHER}
            assert variables[b"CUDA_VISIBLE_DEVICES"] == b"3"
            assert token not in b"".join(variables.values())
            assert token not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert os.getsid(pid) == processes(explorer)[0] != os.getsid(0)
        assert token not in (folder / "logs" / "explorer_rank0.log").read_bytes()

    def test_it_listens_on_the_loopback_only(self, explorer: ServedEngine) -> None:
        port = f"{explorer._connection._process.port:04X}"
        listening = [
            line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()
        ]
        assert [f[1] for f in listening if f[3] == "0A" and f[1].endswith(f":{port}")] == [f"0100007F:{port}"]

    def test_killed_in_a_call(self, explorer: ServedEngine) -> None:
        expected = explorer.generate(REQUESTS, PARAMS)
        _, engine = processes(explorer)
        os.kill(engine, signal.SIGSTOP)  # so that the call cannot be over before the kill
        with ThreadPoolExecutor() as pool:
            call = pool.submit(explorer.generate, REQUESTS, PARAMS)
            threading.Event().wait(0.2)
            os.kill(engine, signal.SIGKILL)
            assert_same_completions(call.result(), expected)
        assert explorer.restarts == 1
        assert not alive(engine)

    def test_hung(self, explorer: ServedEngine, explorer_config: EngineConfig) -> None:
        expected = explorer.generate(REQUESTS, PARAMS)
        hung = processes(explorer)
        os.kill(hung[1], signal.SIGSTOP)
        explorer_config.request_s = 8.0  # a healthy server on a busy machine may take seconds
        assert_same_completions(explorer.generate(REQUESTS, PARAMS), expected)
        assert explorer.restarts == 2
        assert not any(map(alive, hung))

    def test_other_weights_after_a_restart(self, explorer: ServedEngine, explorer_model: Path) -> None:
        explorer.weight_hash()
        write_qwen3(explorer_model, layers=2, seed=1)
        os.kill(processes(explorer)[1], signal.SIGKILL)
        with pytest.raises(EngineError, match=r"has other weights after its restart .* was changed during the run"):
            explorer.generate(REQUESTS, PARAMS)

    def test_lost_once_too_often(self, explorer: ServedEngine) -> None:
        supervisor, engine = processes(explorer)
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(EngineDied, match=r"lost 4 times, more than engine.max_restarts=3; the log .* ends with: "):
            explorer.generate(REQUESTS, PARAMS)
        assert not alive(engine)


class TestLearner:
    def test_refit_equals_an_engine_filled_here(
        self, learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine
    ) -> None:
        buckets = buckets_of(embedded, seed=1)
        for engine in (learner, embedded):
            engine.update_weights(iter(buckets), 7)
        assert learner.weight_version == 7
        assert learner.weight_hash() == embedded.weight_hash()
        assert_same_completions(learner.generate(REQUESTS, PARAMS), embedded.generate(REQUESTS, PARAMS))
        assert learner.last_refit is not None
        assert learner.last_refit.bytes == sum(t.numel() * 4 for bucket in buckets for t in bucket.values())
        assert learner.last_refit.bytes_per_s > 0

    def test_completions_of_an_old_version_are_refused(
        self, learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine
    ) -> None:
        prompts = [Prompt(prompt_id, "", "", (1,)) for prompt_id in range(3)]
        planned = dict.fromkeys(range(3), (0,) * 4)
        learner.update_weights(buckets_of(embedded, seed=1), 8)
        old = learner.generate(REQUESTS, PARAMS)
        assert len(assemble_groups(prompts, old, sources=planned, learner_version=8)) == 3
        learner.update_weights(buckets_of(embedded, seed=2), 9)
        with pytest.raises(RuntimeError, match="was sampled by learner version 8, not by 9"):
            assemble_groups(prompts, old, sources=planned, learner_version=9)
        new = learner.generate(REQUESTS, PARAMS)
        assert len(assemble_groups(prompts, new, sources=planned, learner_version=9)) == 3

    @pytest.mark.parametrize("failure", ["unknown name", "missing tensors", "error of the trainer"])
    def test_an_incomplete_update(
        self, learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine, failure: str
    ) -> None:
        made: list[Bucket] = []

        def buckets() -> Iterator[Bucket]:
            for bucket in buckets_of(embedded, seed=3):
                if failure == "missing tensors" and len(made) == 3:
                    return
                if failure == "error of the trainer" and len(made) == 2:
                    raise KeyError("export")
                made.append(bucket)
                yield {"model.unknown": torch.ones(2)} if failure == "unknown name" and len(made) == 2 else bucket

        with pytest.raises(KeyError if failure == "error of the trainer" else ValueError):
            learner.update_weights(buckets(), 20)
        assert len(made) == (4 if failure == "unknown name" else len(made))  # all of a collective export
        with pytest.raises(EngineError, match="weight version 20 is incomplete"):
            learner.generate(REQUESTS, PARAMS)
        for engine in (learner, embedded):
            engine.update_weights(buckets_of(embedded, seed=3), 21)
        assert_same_completions(learner.generate(REQUESTS, PARAMS), embedded.generate(REQUESTS, PARAMS))

    def test_killed_in_an_update(self, learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine) -> None:
        lost = processes(learner)
        made = []

        def buckets() -> Iterator[Bucket]:
            for bucket in buckets_of(embedded, seed=4):
                made.append(bucket)
                if len(made) == 2:
                    os.kill(lost[1], signal.SIGKILL)
                yield bucket

        with pytest.raises(EngineDied, match="died during /update"):
            learner.update_weights(buckets(), 30)
        assert len(made) == 4
        assert not any(map(alive, lost))
        with pytest.raises(EngineDied, match="has ended"):
            learner.generate(REQUESTS, PARAMS)
        learner.restart()
        with pytest.raises(EngineError, match="update its weights first"):
            learner.generate(REQUESTS, PARAMS)
        for engine in (learner, embedded):
            engine.update_weights(buckets_of(embedded, seed=4), 30)
        assert learner.weight_hash() == embedded.weight_hash()
        assert_same_completions(learner.generate(REQUESTS, PARAMS), embedded.generate(REQUESTS, PARAMS))

    def test_hung_in_an_update(
        self,
        learner: ServedLearnerEngine,
        learner_config: EngineConfig,
        embedded: EmbeddedLearnerEngine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Even the supervisor is stopped, so the client kills the session."""
        monkeypatch.setattr(process, "_END_S", 0.3)
        lost = processes(learner)
        os.kill(lost[0], signal.SIGSTOP)
        os.kill(lost[1], signal.SIGSTOP)
        learner_config.update_s = 0.5
        # a thread of the server may still answer the first request before the stop has reached it
        with pytest.raises(EngineHung, match=r"did not answer /update/(begin|bucket) within engine.update_s=0.5 s"):
            learner.update_weights(buckets_of(embedded, seed=4), 31)
        assert not any(map(alive, lost))


def test_no_orphan_of_a_killed_trainer(model: Path, tmp_path: Path) -> None:
    """The real client and server, of a trainer that gets no chance to clean up."""
    script = f"""
import sys, time
from pathlib import Path
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.served.process import Launch, ServerProcess
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source
settings = EngineSettings(Source.EXPLORER, "explorer.path", {str(model)!r}, Precision.fp32, "cpu", 8, 64, 1, 0.4)
log = Path({str(tmp_path / "log")!r})
server = ServerProcess(Launch(ENGINES["server"].maker, settings, sys.executable, None, log, 60))
supervisor = server._process.pid
print(supervisor, Path(f"/proc/{{supervisor}}/task/{{supervisor}}/children").read_text(), flush=True)
time.sleep(1000)
"""
    root = str(Path(__file__).resolve().parents[3])
    trainer = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}, text=True
    )
    assert trainer.stdout is not None
    with trainer.stdout:
        supervisor, engine = map(int, trainer.stdout.readline().split())
    assert alive(supervisor)
    assert alive(engine)
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 300
    while alive(supervisor) or alive(engine):
        assert time.monotonic() < deadline
        time.sleep(0.02)
