"""Every setting of the project as frozen dataclasses; imports no JAX (floor 0)."""
