"""What secure sums cost: processor time of the server and of a client, bytes of each phase, exactness."""
