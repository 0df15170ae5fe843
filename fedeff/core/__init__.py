"""What every room shares: layers, seeds, records, delays, client state, errors. NumPy only."""
