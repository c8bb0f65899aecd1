"""Bytes -> Batch, deterministic and resumable (floor 2)."""
