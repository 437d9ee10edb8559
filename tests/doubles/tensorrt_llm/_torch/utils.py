"""_torch/utils.py. The double's model is on the CPU, also where there are GPUs."""


def get_device_uuid(device_idx: int) -> str:
    return f"GPU-double-{device_idx}"
