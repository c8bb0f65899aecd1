"""Attention: one function, several implementations, one shared test suite (floor 1)."""
