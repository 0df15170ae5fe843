"""Secure aggregation and differential privacy: what the server learns of a client, and what not."""
