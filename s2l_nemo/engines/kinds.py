"""The kinds of engines: one registration each, with all that the rest of the house asks about a kind.

    ENGINES.register("mine", EngineKind("my_package.engines:MAKER", served=True))

No other module compares the name of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from s2l_nemo.registry import Registry, imported

if TYPE_CHECKING:
    from s2l_nemo.engines.protocol import LearnerEngine, RolloutEngine
    from s2l_nemo.engines.settings import EngineSettings
    from s2l_nemo.models.open import Model


class EngineMaker(Protocol):
    """Makes the engines of a kind in the process that calls it. Each returns once the model is loaded.

    `model` is the one that `settings` names, opened. Both raise UserError if its weights cannot be read.
    """

    def explorer(self, settings: EngineSettings, model: Model) -> RolloutEngine:
        """A frozen engine."""
        ...

    def learner(self, settings: EngineSettings, model: Model) -> LearnerEngine:
        """An engine whose weights can be replaced."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """What is known of a kind. Its defaults are those of an engine in the trainer's process.

    `maker` is an EngineMaker or its name `package.module:name`, which is imported when the first engine is made. A
    served kind gives the name: the server process imports it, and may be another interpreter.
    """

    maker: EngineMaker | str
    served: bool = False  # engines are server processes; else each rank's process holds a copy of both
    tensor_parallel: bool = False  # one engine uses engine.tensor_parallel_size GPUs
    reserves_kv_memory: bool = False  # the KV cache takes engine.memory_fraction of a GPU, and bounds the rows
    fraction_of_whole: bool = False  # that fraction is of the whole memory, for the whole engine; else of what is free
    server_has_context: bool = False  # a tensor-parallel learner's server uses a GPU besides those of its workers
    discards_when_asleep: bool = False  # the weights of a sleeping learner are gone; else they are in host memory
    counts_gpus: bool = False  # it reads CUDA_VISIBLE_DEVICES as numbers, and knows no UUID and no MIG device
    releases_memory_on_sleep: bool = False  # the actor trains in the memory of sleeping engines
    hugging_face_only: bool = False  # it reads no other format than Hugging Face folders
    packs_on_cpu: bool = False  # on a CPU it holds the matrices of its model twice
    renormalises_logprobs: bool = True  # log-probs under top-p and top-k are of the tokens that these leave

    def __post_init__(self) -> None:
        if self.served and not isinstance(self.maker, str):
            raise TypeError("a served kind of engine names its maker by a text `package.module:name`")

    def load(self) -> EngineMaker:
        """The maker itself."""
        if not isinstance(self.maker, str):
            return self.maker
        maker: EngineMaker = imported(self.maker)
        return maker


_EMBEDDED = "s2l_nemo.engines.embedded.make:MAKER"
ENGINES: Registry[EngineKind] = Registry(
    "engine.kind",
    {
        "embedded": EngineKind(_EMBEDDED, packs_on_cpu=True),
        "server": EngineKind(_EMBEDDED, served=True, packs_on_cpu=True),
        "tensorrt_llm": EngineKind(
            "s2l_nemo.engines.tensorrt_llm.make:MAKER",
            served=True,
            tensor_parallel=True,
            reserves_kv_memory=True,
            server_has_context=True,
            counts_gpus=True,  # Ray's workers
            releases_memory_on_sleep=True,
            hugging_face_only=True,
            renormalises_logprobs=False,
        ),
        "vllm": EngineKind(
            "s2l_nemo.engines.vllm.make:MAKER",
            served=True,
            tensor_parallel=True,
            reserves_kv_memory=True,
            fraction_of_whole=True,
            discards_when_asleep=True,
            releases_memory_on_sleep=True,
            hugging_face_only=True,
        ),
    },
)
