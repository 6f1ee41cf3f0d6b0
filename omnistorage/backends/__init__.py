"""Backends: one file each, behind the door in ``_base``. ``registry`` finds them by name."""
