"""Breaks real processes with real signals, then checks what was billed and what was heard."""
