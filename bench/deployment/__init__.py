"""A SuperLink with SuperNodes on this machine: what a round waits for, and what travels."""
