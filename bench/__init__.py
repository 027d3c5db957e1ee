"""Benchmarks on real servers; the table names the machine that they ran on."""
