"""The whole system on one machine: real servers, the simulator, a worker, the viewer.

For development, the demo and the tests. Not a way to run production.
"""
