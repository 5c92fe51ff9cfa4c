"""Where a flow submits its jobs: the cluster at `ray_address`; a local Ray if none is given.

So a laptop runs the pipeline exactly as a cluster does: as jobs, through an API.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from ddpm_core.errors import ClusterError
from ddpm_core.servers.own_ray import OwnRay
from ddpm_core.servers.server import use_directly


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted to."""

    address: str
    """URL of the Ray dashboard, e.g. http://ray-head:8265"""
    token: str | None = field(default=None, repr=False)
    """the embedded Ray's token; None: whatever RAY_AUTH_* in the environment say"""

    @property
    def is_embedded(self) -> bool:
        """Whether it is this machine's own, and ends with this process."""
        return self.token is not None


class EmbeddedRay:
    """A Ray of this machine's own: started on first use, or again when it was lost."""

    def __init__(self) -> None:
        self._ray: OwnRay | None = None
        self._cluster: Cluster | None = None

    def start(self) -> None:
        """Begin to start it, if it does not run; does not wait."""
        if self._ray is not None and self._ray.is_running():
            return
        self.close()
        use_directly()  # the client of its jobs would ask a proxy for it
        self._ray = OwnRay()

    def cluster(self) -> Cluster:
        """Return where its jobs are submitted, once they can be.

        Raises:
            ClusterError: if it does not start.
        """
        self.start()
        if self._cluster is None and self._ray is not None:
            self._cluster = Cluster(self._ray.jobs_url(), self._ray.token)
        if self._cluster is None:
            raise ClusterError("the embedded Ray was closed while it started; run again")
        return self._cluster

    def close(self) -> None:
        """End it; `cluster` would start another."""
        ray, self._ray, self._cluster = self._ray, None, None
        if ray is not None:
            ray.close()


_shared: ContextVar[EmbeddedRay | None] = ContextVar("_shared", default=None)


@contextlib.contextmanager
def shared_ray() -> Iterator[EmbeddedRay]:
    """Let all stages within the block use one embedded Ray, if they use any."""
    if (outer := _shared.get()) is not None:
        yield outer
        return
    ray = EmbeddedRay()
    token = _shared.set(ray)
    try:
        yield ray
    finally:
        _shared.reset(token)
        ray.close()


@contextlib.contextmanager
def cluster_at(ray_address: str | None) -> Iterator[Cluster]:
    """Yield the cluster at `ray_address`; None is a Ray of this machine's own."""
    if ray_address is not None:
        yield Cluster(ray_address)
        return
    with shared_ray() as ray:
        yield ray.cluster()
