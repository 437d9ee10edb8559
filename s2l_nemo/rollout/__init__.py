"""Rollouts: the engine protocol, the embedded engine and mixed groups."""
