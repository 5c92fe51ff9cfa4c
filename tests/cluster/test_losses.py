"""Which errors of a group are a lost worker."""

from types import SimpleNamespace

import pytest
import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from ddpm_core.cluster import losses
from ddpm_core.errors import ClusterError, DataError

GONE = ray.exceptions.ActorDiedError()
RESET = RuntimeError("[/x/third_party/gloo/y.cc:5] Connection closed by peer")
UNHEARD = torch.distributed.DistNetworkError("reset")
DEFECT = KeyError("a")
SHAPES = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
BAD_DATA = DataError("shard 3")
NO_DECODER = ClusterError("a process that decodes images has ended with code -9")


@pytest.mark.parametrize(
    ("errors", "incurable"),
    [
        ({1: GONE}, None),
        ({0: RESET, 1: GONE}, None),
        ({0: RESET}, None),
        ({0: UNHEARD, 2: RESET}, None),
        ({1: DEFECT}, DEFECT),
        ({0: RESET, 1: SHAPES}, SHAPES),
        ({0: DEFECT, 1: GONE}, None),
        ({0: RESET, 1: BAD_DATA, 2: DEFECT}, BAD_DATA),
        ({0: GONE, 1: BAD_DATA}, BAD_DATA),
        ({0: RESET, 1: NO_DECODER}, None),
        ({0: NO_DECODER, 1: DEFECT}, None),
    ],
)
def test_only_a_lost_worker_is_worth_another_start(errors, incurable):
    """Catches a defect or a user's error that costs max_failures restarts before it is said, and
    a rank's complaint about a lost peer that is taken for a defect.
    """
    assert losses.incurable(errors) is incurable


def test_a_loss_is_said_when_it_is_seen(tmp_path, capsys):
    """Catches a minute without a step and without a word of why."""
    policy = losses.RestartPolicy(tmp_path / "losses")
    silent = WorkerHealthCheckTimeoutError("A worker health check has been hanging for 60 seconds.")
    policy.after_worker_group_poll_status(SimpleNamespace(errors={2: silent, 1: GONE, 0: RESET}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the group has lost a worker: rank 0: RuntimeError: [/x/")
    assert "; rank 1: ActorDiedError: " in line
    assert line.endswith("; rank 2: it did not answer for so long that it counts as lost")
    assert (tmp_path / "losses").read_text() == "x"
