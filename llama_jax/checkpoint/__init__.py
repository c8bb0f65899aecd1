"""Saving and restoring a run, and proving that it is the same run (floor 2)."""
