"""The probes on real models: samples rollouts, takes scores, and writes figures, tables and pictures."""
