"""The processes of one run: who they are, how they meet and how they end."""
