"""Where arrays live: the mesh, and the one table that splits dimensions over it (floor 1)."""
