"""The contract between backends, workflows and workers: names, states, messages.

Importable in a workflow: nothing here does I/O.
"""
