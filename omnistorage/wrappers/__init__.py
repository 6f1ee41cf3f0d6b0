"""Wrappers: backends made from a backend. Nesting is the API.

The base all of them share is ``_base.Wrapper``. The order in which several are nested matters: what is outermost sees
the caller's paths and counts the caller's calls, what is innermost sees what the store sees.
"""
