"""Coded computation: codes, their training and the pool that runs them."""

__all__: list[str] = []
