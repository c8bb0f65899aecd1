"""A teacher's answers to instructions, asked once and kept (floor 3)."""
