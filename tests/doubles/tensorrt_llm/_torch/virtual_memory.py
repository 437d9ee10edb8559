"""_torch/virtual_memory.py: the values of `ExecutorMemoryType` in 1.2."""

TAGS = (
    "sampler",
    "drafter",
    "guided_decoder",
    "spec_resource_manager",
    "_no_capture_init_kv_cache",
    "_no_capture_init_extra_resources",
    "model_extra",
    "executor_extra",
    "kv_cache",
    "model",
    "draft_model",
)


def verify_sleep_wakeup_tags(tags: list[str]) -> list[str]:
    for tag in tags:
        if tag not in TAGS:
            raise ValueError(f"Unknown memory tag '{tag}'. Valid tags are: {list(TAGS)}")
    return tags
