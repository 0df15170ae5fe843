"""What findings are worth against the truth, and what follows from that."""
