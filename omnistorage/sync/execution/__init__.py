"""Doing what was planned."""
