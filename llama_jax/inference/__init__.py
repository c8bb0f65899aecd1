"""Decoding: from a model and a prompt to text (floor 3)."""
