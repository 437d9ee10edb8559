"""What a run leaves behind: run directory, metrics, console, rollout dumps, statistics and plots."""
