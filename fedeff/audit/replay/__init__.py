"""What candidate rows would have made a client send, how that changes with them, and the limits of both."""
