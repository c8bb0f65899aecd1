"""The Llama (floor 2)."""
