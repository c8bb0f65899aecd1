"""Optimizers, schedules, and which parameters they leave alone (floor 2)."""
