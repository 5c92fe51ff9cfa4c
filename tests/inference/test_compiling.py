"""Networks that are compiled: without a break, once for each size, and where nobody else writes."""

import os
import subprocess
import sys

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from ddpm_core.errors import ConfigError
from ddpm_core.inference import compiling
from ddpm_core.inference.build import layout_of
from ddpm_core.inference.compiling import compiled, said_of_compiling

TRAINED = """
import functools, sys
import torch
from ddpm_core.conditioning import Conditioning
from ddpm_core.training.stepping import denoising
from tests.training.small import *

torch.set_num_threads(1)
denoising.compiled = functools.partial(denoising.compiled, backend="aot_eager")
for changes in eval(sys.argv[1]):
    section = changes.pop("section", {})
    config = small_config(**({"model__dropout": 0.0} | changes)).replaced(section)
    learner = make_learner(config.replaced({"compute.compile": True}))
    assert state_of(learner)["window"].abs().sum() == 0
    plain = make_learner(config)
    for one in plain.network.modules():
        if isinstance(one, torch.nn.Dropout):
            one.forward = functools.partial(torch.nn.Dropout.forward, one)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            given = [rank_slice(config, small_images(), step, 0, 1)]
            if learner.accepts:
                given.append(Conditioning(label=torch.arange(12) % 10))
            learner.step(step, *given)
            plain.step(step, *given)
    torch.testing.assert_close(state_of(learner), state_of(plain), rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()
print("equal")
"""
EVERYTHING = {
    "model__conditioning": "label", "model__known": True, "model__attention_resolutions": [4],
    "train__augment": 0.5, "model__dropout": 0.1,
}  # fmt: skip
OTHERS = [
    {},
    {"train__precision": "bfloat16", "model__attention_resolutions": [4]},
    {"train__loss": "hybrid", "diffusion__variance": "learned_range"},
    *({"section": {"diffusion": {"kind": kind}}} for kind in ("vp", "subvp", "ve", "edm", "flow")),
]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([EVERYTHING], marks=pytest.mark.slow),
        pytest.param(OTHERS, marks=pytest.mark.long),
    ],
)
def test_a_training_compiles_as_one_graph_before_its_first_step(changes, tmp_path):
    """Catches what the compiler cannot trace, a first step that compiles anew while other ranks
    wait, and a trial that leaves its counts or its gradient. In a process without the checks of
    shapes, by a compiler that writes no code.
    """
    command = [sys.executable, "-c", TRAINED, repr(changes)]
    environment = {**os.environ, "DDPM_CACHE": str(tmp_path / "a cache")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=280, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
    assert (tmp_path / "a cache" / "compiled").stat().st_mode & 0o777 == 0o700


def test_what_is_compiled_lies_where_nobody_else_writes(tmp_path, monkeypatch):
    """Catches torch's own folder, whose name anybody can make first, and one that others write."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    monkeypatch.setenv(compiling._FOLDER, default_cache_dir())  # as torch does by itself
    monkeypatch.setenv(compiling._THREADS, "7")
    compiling._prepare(3)
    assert os.environ[compiling._FOLDER] == str(tmp_path / "compiled")
    assert os.environ[compiling._THREADS] == "3"
    (tmp_path / "compiled").chmod(0o770)
    monkeypatch.setenv(compiling._FOLDER, "")
    with pytest.raises(ConfigError, match=r"others can write there.*compute\.compile=false"):
        compiled(torch.relu, num_threads=1)


def test_an_error_of_the_compiler_names_the_switch():
    """Catches a traceback of forty lines; a lack of memory has a sentence of its own."""
    named = pytest.raises(ConfigError, match=r"no C\+\+ compiler.*compute\.compile=false")
    with named, said_of_compiling():
        raise RuntimeError("no C++\n compiler")
    with pytest.raises(torch.OutOfMemoryError), said_of_compiling():
        raise torch.OutOfMemoryError


def test_a_gpu_computes_with_channels_last_if_it_is_compiled():
    """Catches a layout that is left to the compiler, which does not choose it for training."""
    gpu = torch.device("cuda")
    assert layout_of(gpu, compiled=True) == torch.channels_last
    assert layout_of(gpu, compiled=False) == torch.contiguous_format
    assert layout_of(torch.device("cpu"), compiled=False) == torch.channels_last
