"""How the system is run: here locally, elsewhere in containers."""
