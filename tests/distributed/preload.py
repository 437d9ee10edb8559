"""Imported once by the fork server of the distributed tests: NeMo and Megatron on the CPU, quietly."""

import os

from s2l_nemo.trainer.start import preload

os.environ["TOKENIZERS_PARALLELISM"] = "false"

preload()
