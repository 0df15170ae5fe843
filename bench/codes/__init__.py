"""What codes bring: answers without the slow ones' work, their accuracy, their latency, and their cost."""
