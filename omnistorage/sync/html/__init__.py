"""A report of a sync as one HTML page."""
