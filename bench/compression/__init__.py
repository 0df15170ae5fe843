"""Codecs measured: bits on the wire, speed, accuracy for bytes, and the planner against a real link."""
