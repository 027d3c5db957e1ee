"""The development stack: Temporal, LiveKit, the LiveAvatar simulator and workers on one machine.

The demo, the tests, the benchmarks and chaos start their servers here and nowhere else:
`start_temporal`, `start_livekit`, `start_simulator`, `start_worker`, and `start_stack` for all of
them. Not a way to run production.
"""
