"""Versions: which shard a user is in, what an asset is made by, and hashes of plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import md5, sha256
from json import dumps

from assets.asset import Asset


def shard_of(user_id: str, n_shards: int) -> int:
    """The shard (0 to n_shards - 1) of a user: the first 32 bits of md5(user_id), modulo `n_shards`.

    md5 because Python, Postgres and DuckDB all have it; it spreads, it protects nothing.
    """
    return int(md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8], 16) % n_shards


def hash_of(value: object) -> str:
    """sha256 of the canonical JSON of plain data."""
    return sha256(dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_of(asset: Asset, resources: Mapping[type, object]) -> Mapping[str, str]:
    """What an asset is made by: its code's version and the versions of resources that have one (a model)."""
    versions = {name: getattr(resources.get(kind), "version", None) for name, kind in asset.resources.items()}
    return {"code": asset.code_version} | {f"resource {name}": each for name, each in versions.items() if each}


def edge_hash(columns: Iterable[str], versions: Mapping[str, str]) -> str:
    """The version of what an edge reads: the hash of the versions of its columns."""
    return hash_of({name: versions[name] for name in columns})
