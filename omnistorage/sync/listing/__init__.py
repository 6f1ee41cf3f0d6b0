"""Listing the two sides of a sync, in order and side by side."""
