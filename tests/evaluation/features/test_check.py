"""Every feature network that could not measure is refused in one sentence, before a training."""

import io

import numpy as np
import pytest
import torch

from ddpm_core import __main__ as command
from ddpm_core.errors import ConfigError
from ddpm_core.evaluation.features import check
from ddpm_core.preflight import Findings
from ddpm_core.recipes import digits
from ddpm_core.runs.stages import Stage
from ddpm_core.store.storage import sha256_of

pytestmark = [
    # Scripting is deprecated in torch; the detectors that people compare with are such files.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


class Good(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=(2, 3))


class Half(torch.nn.Module):
    """Computes in bfloat16, where other places in a batch may round otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16).mean(dim=(2, 3))


class WantsFloats(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3))


class WantsLargeImages(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] >= 299, "images of 299x299 are expected"
        return x.float().mean(dim=(2, 3))


class Whole(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().sum()


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.float().mean(dim=(2, 3)), x.float()


class Numbers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0].long()


class Missing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=(2, 3)) / 0 * 0


class Nothing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(1)[:, :0]


class Constant(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(x.shape[0], 5)


class Mixes(torch.nn.Module):
    """As a batch normalisation that was left in training mode does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.float().mean(dim=(2, 3))
        return rows - rows.mean(dim=0, keepdim=True)


class Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=(2, 3)) + 100 * torch.rand(x.shape[0], 3)


class Pixels(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().repeat(1, 100, 1, 1)


class NoProbabilities(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        return x.float().mean(dim=(2, 3))


def file_of(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def given(data: bytes, path, **changes):
    path.write_bytes(data)
    return digits().replaced(
        {"evaluate.features": str(path), "evaluate.features_sha256": sha256_of(data), **changes}
    )


@pytest.mark.parametrize("module", [Good, Half])
def test_a_network_that_measures_passes(module, tmp_path):
    """Catches: a check that refuses what the evaluation would take, or rounding."""
    check.check_feature_network(given(file_of(module()), tmp_path / "net.pt"))


def test_statistics_of_other_features_than_a_files_are_refused(tmp_path):
    """Catches: a refusal after the training, of a network whose features no table counts."""
    reference = tmp_path / "s.npz"
    np.savez(reference, mu=np.zeros(4), sigma=np.eye(4))
    named = {
        "evaluate.reference": str(reference),
        "evaluate.reference_sha256": sha256_of(reference.read_bytes()),
    }
    config = given(file_of(Good()), tmp_path / "net.pt", **named)
    said = r"s\.npz' is of 4 features, and evaluate\.features=.* 3;"
    with pytest.raises(ConfigError, match=said):
        check.check_feature_network(config)
    check.check_reference(config)  # which does not know it, and says nothing


def test_the_trained_network_needs_no_file():
    """Catches: a check that stands in the way of the default."""
    check.check_feature_network(digits())


REFUSED = [
    (WantsFloats, "could not go through the network"),
    (WantsLargeImages, "images of 299x299 are expected"),
    (Whole, r"a tensor of shape \(\) for 2 images, not one row"),
    (Pair, "returned a tuple for 2 images, not one row"),
    (Numbers, "numbers of torch.int64; give one that returns floats"),
    (Missing, "returned NaN or infinity"),
    (Nothing, "give one that returns floats"),
    (Constant, "returns the same for two different images"),
    (Mixes, "an image that stands alone"),
    (Random, "draws them at random"),
    (Pixels, "returns 19200 numbers for an image, and at most 16384"),
    (NoProbabilities, "is no distribution"),
]


@pytest.mark.parametrize(("module", "message"), REFUSED)
def test_a_network_that_could_not_measure_is_refused_in_one_sentence(module, message, tmp_path):
    """Catches: a traceback after the training; numbers that mean nothing, and no word."""
    path = tmp_path / "net.pt"
    with pytest.raises(ConfigError, match=message) as refused:
        check.check_feature_network(given(file_of(module()), path))
    said = str(refused.value)
    assert said.startswith(f"evaluate.features={str(path)!r}")
    assert "\n" not in said
    assert "give " in said


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\3\4garbage"])
def test_a_file_that_is_no_torchscript_is_refused_in_one_sentence(data, tmp_path):
    """Catches: the page that a host shows instead of the file, pinned with its own digest."""
    with pytest.raises(ConfigError, match="is no TorchScript module") as refused:
        check.check_feature_network(given(data, tmp_path / "net.pt"))
    assert "\n" not in str(refused.value)


def test_weights_without_a_program_are_refused(tmp_path):
    """Catches: a state dict, which is what most published files are."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    with pytest.raises(ConfigError, match="is no TorchScript module"):
        check.check_feature_network(given(buffer.getvalue(), tmp_path / "net.pt"))


@pytest.mark.parametrize("stage", ["train", "ablations"])
@pytest.mark.parametrize("dry", [True, False])
def test_the_network_is_tried_before_any_stage_and_in_a_dry_run(
    stage, dry, tmp_path, monkeypatch, capsys
):
    """Catches: days of training before the evaluation refuses; a run.json that takes the name of
    the run for an attempt that did nothing; a plan that says it would run."""
    config = given(file_of(WantsFloats()), tmp_path / "net.pt").evaluate
    ran = []
    monkeypatch.setattr(Stage, "load", lambda one: lambda store, config: ran.append(one.name))
    root = tmp_path / "root"
    changes = [f"evaluate.{key}={getattr(config, key)}" for key in ("features", "features_sha256")]
    arguments = [stage, "digits", "--root", str(root), *(["--dry-run"] if dry else [])]
    arguments += [word for change in changes for word in ("--set", change)]
    assert command.main(arguments) == 2
    said = capsys.readouterr()
    assert "could not go through the network" in said.err
    assert said.out == ""
    assert not ran
    assert not list(root.glob("**/run.json"))


@pytest.mark.parametrize(("missing", "code"), [(["evaluate"], 2), ([], 0)])
def test_a_result_that_is_done_needs_no_network(missing, code, tmp_path, monkeypatch):
    """Catches: a network that is tried, or fetched, though nothing is to be measured with it."""
    config = given(file_of(WantsFloats()), tmp_path / "net.pt").evaluate
    ran = []
    monkeypatch.setattr(Stage, "load", lambda one: lambda store, config: ran.append(one.name))
    monkeypatch.setattr(command, "preflight", lambda *_, **__: Findings(missing, None, []))
    changes = [f"evaluate.{key}={getattr(config, key)}" for key in ("features", "features_sha256")]
    arguments = ["evaluate", "digits", "--root", str(tmp_path / "root")]
    arguments += [word for change in changes for word in ("--set", change)]
    assert command.main(arguments) == code
    assert ran == ["evaluate"] * (not missing)
