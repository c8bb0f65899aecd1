"""Numbers about a run: metrics, timing, FLOPs, writers (floor 1)."""
