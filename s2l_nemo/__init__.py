"""S2L-PO: reinforcement learning in which a small frozen model of the same family explores for a large one."""

__version__ = "0.1.0"
