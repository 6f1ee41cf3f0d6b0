"""Backends by name: configuration as data, and the registry that opens backends from it."""

from __future__ import annotations

from .backend_options import backend_class, backend_names, check_options, register_backend
from .models import BackendConfig, RegistryConfig, StoreProfile, backends_from_toml
from .registry import locate, open_backend

__all__ = [
    "BackendConfig",
    "RegistryConfig",
    "StoreProfile",
    "backend_class",
    "backend_names",
    "backends_from_toml",
    "check_options",
    "locate",
    "open_backend",
    "register_backend",
]
