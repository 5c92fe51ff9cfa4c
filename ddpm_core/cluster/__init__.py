"""Ray: joining or starting a cluster, groups that train together, pools that share out units.

The only package of the library that imports Ray. Code on a worker gets a payload and its place
(rank, world size, device), and never calls Ray itself. Groups are in `group`, which is not imported
here: Ray Train takes a second and a half, also in each worker of a pool.
"""

from ddpm_core.cluster.connection import Connection, connect
from ddpm_core.cluster.place import Place, place
from ddpm_core.cluster.pool import GetDevice, map_units

__all__ = ["Connection", "GetDevice", "Place", "connect", "map_units", "place"]
