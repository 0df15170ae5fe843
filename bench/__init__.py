"""Benchmarks: peers and references side by side with fedeff, each measured in a process of its own."""
