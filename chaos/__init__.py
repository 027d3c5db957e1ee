"""The proof: real processes, broken with real signals, and what was billed and heard looked at."""
