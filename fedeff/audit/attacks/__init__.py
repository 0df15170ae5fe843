"""Attacks, one method a file: from a view to what it betrays."""
