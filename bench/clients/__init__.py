"""What each client algorithm brings: training at a client, measured on real data against its baseline."""
