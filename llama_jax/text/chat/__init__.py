"""Conversations -> token ids, what of them is learned, and who says it (floor 1)."""
