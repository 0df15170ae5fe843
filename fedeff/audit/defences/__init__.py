"""What a configuration promises: defences by name, the true epsilon, and whether the wire keeps them."""
