"""Threads, time and repetition: pools, deadlines and cancellation, retries and rates. Standard library only."""
