"""executor/ray_executor.py: the workers of one engine, each in a thread of its own, and what the first of them samples.

The ranks hold shards of the weights. The tokens come from the embedded engine with the weights that all shards make
together, so an update that one rank misses shows in the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.types import Completion, SampleRequest, Source
from s2l_nemo.types import SamplingParams as OurSamplingParams
from tensorrt_llm._data import CompletionOutput, LlmArgs, Logprob, SamplingParams
from tensorrt_llm._misuse import Misuse
from tensorrt_llm._scheduler import Request, Schedule, play
from tensorrt_llm._worker import Engine, RayGPUWorker, assemble, worker_class

Submitted = tuple[list[int], SamplingParams]


class Executor:
    """Starts Ray when it is made, as the real one, and the workers in `start`."""

    def __init__(self, args: LlmArgs, keeps_released_weights: bool, free_kv_tokens: int) -> None:
        self._args = args
        self._keeps_released_weights = keeps_released_weights
        self._free_kv_tokens = free_kv_tokens  # what all free memory of a GPU would hold
        self.schedules: list[Schedule] = []  # of each call that sampled
        self.workers: list[RayGPUWorker] = []
        self._threads: list[ThreadPoolExecutor] = []
        self._loaded = 0  # updates whose weights the sampling model has
        if args.orchestrator_type == "ray":
            # Ray runs already if the caller has started it: then this does nothing
            ray.init(address="local", include_dashboard=False, namespace="trtllm", ignore_reinit_error=True)

    def start(self) -> None:
        args, size = self._args, self._args.tensor_parallel_size
        if args.orchestrator_type == "ray" and ray.cluster_resources()["CPU"] < size:
            raise Misuse(f"Ray has fewer CPUs than the {size} of the workers' placement group: it waits for ever")
        dtype = torch.bfloat16 if args.dtype == "auto" else getattr(torch, args.dtype)
        self._model = EmbeddedEngine.from_pretrained(
            args.model, source=Source.LEARNER, device="cpu", dtype=dtype, max_batch_rows=args.max_batch_size
        )
        heads = self._model._model.config.num_attention_heads
        if heads % size:
            raise ValueError(f"tensor_parallel_size={size} does not divide {heads} attention heads")
        weights = self._model._weights()
        make = worker_class(args.ray_worker_extension_cls)
        self.workers = [make(rank, Engine(args, rank, weights, self._keeps_released_weights)) for rank in range(size)]
        self._threads = [ThreadPoolExecutor(1, f"worker-{rank}") for rank in range(size)]

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int | None) -> list[Any]:
        """One answer of each worker, in the order of the ranks; all run at once."""
        ranks = range(len(self.workers)) if rank is None else [rank]
        for one in ranks:
            if not callable(getattr(self.workers[one], method, None)):
                raise AttributeError(f"The RayGPUWorker has no method called '{method}'.")
        futures = [self._threads[one].submit(getattr(self.workers[one], method), *args, **kwargs) for one in ranks]
        return [future.result() for future in futures]

    def generate(self, batch: Sequence[Submitted]) -> list[CompletionOutput]:
        """Samples with the embedded engine, requests with equal settings in one batch."""
        engines = [worker.engine for worker in self.workers]
        for engine in engines:
            engine.check_ready()
        if self._loaded != engines[0].updates:
            self._model._fill([assemble(engines)], "the shards")
            self._loaded = engines[0].updates
        groups: dict[str, list[int]] = {}
        for index, (_, params) in enumerate(batch):
            groups.setdefault(params.batch_key(), []).append(index)
        outputs: dict[int, CompletionOutput] = {}
        for indices in groups.values():
            outputs.update(zip(indices, self._sample([batch[index] for index in indices]), strict=True))
        ordered = [outputs[index] for index in range(len(batch))]
        self._play(batch, ordered)
        return ordered

    def _sample(self, batch: Sequence[Submitted]) -> list[CompletionOutput]:
        params = batch[0][1]
        temperature = 1.0 if params.temperature is None else params.temperature
        ours = OurSamplingParams(
            max_new_tokens=params.max_tokens,
            stop_token_ids=tuple(params.stop_token_ids or ()),
            temperature=0.0 if params.greedy else temperature,
            top_p=1.0 if params.top_p is None else params.top_p,
            top_k=params.top_k or 0,
            # The real kernel takes the penalty off after the temperature, the embedded engine before it.
            presence_penalty=(params.presence_penalty or 0.0) * (temperature or 1.0),
        )
        requests = [SampleRequest(index, 0, tuple(prompt), p.seed or 0) for index, (prompt, p) in enumerate(batch)]
        completions = self._model.generate(requests, ours)
        return [
            _output(completion, self._logprobs(prompt, completion, ours) if params.truncates else None, params)
            for completion, (prompt, _) in zip(completions, batch, strict=True)
        ]

    @torch.no_grad()
    def _logprobs(self, prompt: list[int], completion: Completion, params: OurSamplingParams) -> list[float]:
        """Of the whole softmax after temperature and penalty: the real ones do not know of top-p and top-k."""
        tokens = completion.token_ids.tolist()
        sequence = torch.tensor([prompt + tokens])
        logits_TV = self._model._model(sequence, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        for position in range(len(tokens)):
            logits_TV[position, list(set(tokens[:position]))] -= params.presence_penalty
        logprobs_TV = torch.log_softmax(logits_TV / params.temperature, dim=-1)
        values: list[float] = logprobs_TV.gather(1, torch.tensor(tokens)[:, None]).squeeze(-1).tolist()
        return values

    def _play(self, batch: Sequence[Submitted], outputs: Sequence[CompletionOutput]) -> None:
        config = self._args.kv_cache_config
        requests = [
            Request(len(prompt), len(output.token_ids), params.max_tokens)
            for (prompt, params), output in zip(batch, outputs, strict=True)
        ]
        policy = self._args.scheduler_config.capacity_scheduler_policy
        blocks = config.blocks(self._free_kv_tokens)
        self.schedules.append(play(requests, blocks, config.tokens_per_block, self._args.max_batch_size, policy))

    def shutdown(self) -> None:
        for thread in self._threads:
            thread.shutdown()
        if self._args.orchestrator_type == "ray":
            ray.shutdown()


def _output(completion: Completion, logprobs: list[float] | None, params: SamplingParams) -> CompletionOutput:
    tokens = completion.token_ids.tolist()
    stopped = completion.finish_reason == "stop"
    values = completion.logprobs.tolist() if logprobs is None else logprobs
    output = CompletionOutput(
        index=0,
        token_ids=tokens,
        logprobs=[{token: Logprob(value, 1)} for token, value in zip(tokens, values, strict=True)],
        finish_reason=completion.finish_reason,
        stop_reason=tokens[-1] if stopped else None,
    )
    if stopped and not params.include_stop_str_in_output:
        output.token_ids = tokens[:-1]
    return output
