"""Ray: joining or starting a cluster, groups that train together, pools that share out units.

The only room that knows Ray. What runs on a worker is handed a payload and told its place (rank,
world size, device); it never asks Ray for anything.
"""

from ddpm_core.cluster.connection import Connection, connect
from ddpm_core.cluster.group import Place, place, train_group
from ddpm_core.cluster.pool import map_units

__all__ = ["Connection", "Place", "connect", "map_units", "place", "train_group"]
