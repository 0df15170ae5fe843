"""What the gradient-leakage audit reaches: attacks on views of the production path, verdicts, a peer."""
