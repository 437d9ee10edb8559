"""Imported once by the fork server of the distributed tests: NeMo and Megatron on the CPU, quietly."""

from s2l_nemo.trainer.start import preload

preload()
