"""The `fedeff` command."""
