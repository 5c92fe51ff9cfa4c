"""Nodes of an autoscaler: requested for all workers at once, waited for, and given back."""

import pytest

from ddpm_core.cluster import autoscaling, connection
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ConfigError

GPU_NODE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}


@pytest.fixture
def ray_of_nodes(monkeypatch):
    """Give a cluster whose nodes come one at each look, and what was requested of it."""
    nodes, requested = [], []

    def look():
        if requested and requested[-1]:
            nodes.append(GPU_NODE)
        return nodes

    monkeypatch.setattr("ray.nodes", look)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": float(len(nodes))})
    monkeypatch.setattr(autoscaling, "request_resources", lambda bundles: requested.append(bundles))
    monkeypatch.setattr(autoscaling, "_LOOK_EVERY_S", 0.0)
    return requested


def test_a_cluster_without_nodes_yet_is_asked_for_them(ray_of_nodes, monkeypatch, capsys):
    """Catches a stage that is refused since its nodes are yet to be started, a request for one
    worker after the other, one that another stage's replaces, and one that holds the nodes when
    the stage is over."""
    monkeypatch.setenv(autoscaling.PATIENCE_VARIABLE, "60")
    compute = ComputeConfig(num_workers=3, cpus_per_worker=2, use_gpu=True)
    connection._request_nodes(compute)
    *during, after = ray_of_nodes
    assert during == [[{"CPU": 2, "GPU": 1}] * 3] * len(during)
    assert len(during) > 1  # or the request of another stage, which replaces it, would stand
    assert after == []
    connection._preflight(compute, patience_s=0)
    assert "waiting up to 60 s for nodes with room for 3 worker(s)" in capsys.readouterr().out
    connection._request_nodes(compute)  # they are there: nothing to request
    assert ray_of_nodes == [*during, after]


def test_a_cluster_that_says_nothing_of_an_autoscaler_is_refused_at_once(ray_of_nodes, monkeypatch):
    """Catches a wait of minutes for nodes that nobody starts."""
    monkeypatch.delenv(autoscaling.PATIENCE_VARIABLE, raising=False)
    compute = ComputeConfig(num_workers=2, use_gpu=True)
    connection._request_nodes(compute)
    assert ray_of_nodes == []
    with pytest.raises(ConfigError, match="the cluster has room for 0"):
        connection._preflight(compute, patience_s=0)


def test_nodes_that_do_not_come_are_no_longer_requested(monkeypatch):
    """Catches a request that outlives the stage which gave up, and starts nodes for nobody."""
    requested = []
    monkeypatch.setattr(autoscaling, "request_resources", lambda bundles: requested.append(bundles))
    monkeypatch.setattr(autoscaling, "_LOOK_EVERY_S", 0.0)
    autoscaling.wait_for_nodes([{"CPU": 1}], lambda: False, 0.01)
    assert (requested[0], requested[-1]) == ([{"CPU": 1}], [])


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_patience_that_is_no_time_is_refused(monkeypatch, text):
    """Catches a slip that ends in a wait for ever, or in none."""
    monkeypatch.setenv(autoscaling.PATIENCE_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"DDPM_WAIT_FOR_NODES_S={text} must be a number"):
        autoscaling.patience_s()
