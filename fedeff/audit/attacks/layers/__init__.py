"""The layers of a network undone one by one: a linear system each, and what pooling hid."""
