"""Strings <-> token ids: tokenizers, their training, text that streams (floor 1)."""
