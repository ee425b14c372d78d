"""What stands behind a CA by its configuration: where its records are, and who vouches for callers. Wiring only."""

from __future__ import annotations

import socket
from pathlib import Path

from node_ca.config import Config
from node_ca.consul import Consul
from node_ca.consul_entry import ConsulEntry
from node_ca.consul_inventory import ConsulInventory
from node_ca.inventory import SqliteInventory
from node_ca.issuer import Entry
from node_ca.records import Inventory
from node_ca.replicas import Replicas
from node_ca.state_folder import replica_name


async def open_inventory(config: Config) -> Inventory:
    """Open the CA's own file, or the records that several CAs share; raises ConfigError or InventoryError."""
    consul = config.consul
    if consul.shared_records:
        return await ConsulInventory.open(Consul.configured(consul.address, consul.token_file, consul.ca_file))
    return await SqliteInventory.open(Path(config.state_dir) / "inventory.db")


def known_replicas(config: Config) -> Replicas | None:
    """Return the CAs that share their records with this one, None for one alone; raises ConfigError."""
    consul = config.consul
    if not consul.shared_records:
        return None
    api = Consul.configured(consul.address, consul.token_file, consul.ca_file)
    return Replicas(api, replica_name(Path(config.state_dir)), socket.gethostname())


def consul_entry(config: Config) -> Entry | None:
    """Return the entry by Consul's tokens, if it is wanted; raises ConfigError."""
    consul = config.consul
    if not consul.entry_namespace:
        return None
    # Callers ask with their own tokens: none of ours is needed.
    return ConsulEntry(Consul.configured(consul.address, "", consul.ca_file), consul.entry_namespace)
