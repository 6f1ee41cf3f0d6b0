"""Tiers that can be pulled out, and what they hold."""

from omnistorage import MemoryBackend, Tier, TieredBackend
from omnistorage.ops import write_bytes


def three(**options):
    return TieredBackend([Tier(name, MemoryBackend()) for name in ("hot", "warm", "cold")], **options)


def put(tiers, name, path, data):
    return write_bytes(tiers.tier(name).backend, path, data)


def has(tiers, name, path):
    return tiers.tier(name).backend.peek(path)


def shadowed(primary, secondary):
    told = []
    tiers = TieredBackend([Tier("old", primary), Tier("new", secondary)], read="shadow", on_difference=told.append)
    return tiers, told
