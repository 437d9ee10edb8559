"""_torch/virtual_memory.py."""

from tensorrt_llm._facts import FACTS, VERSION

TAGS: tuple[str, ...] = tuple(FACTS["memory_tags"][VERSION])

WEIGHTS = "model_weights" if "model_weights" in TAGS else "model"


def verify_sleep_wakeup_tags(tags: list[str]) -> list[str]:
    for tag in tags:
        if tag not in TAGS:
            raise ValueError(f"Unknown memory tag '{tag}'. Valid tags are: {list(TAGS)}")
    return tags
