"""Ten minutes of a GPU must not end at a misspelt key: the plan, rehearsed on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_rows, gpu_speed


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Give the command, in this process: its rows have processes of their own, of two seconds."""

    def run(out: Path, *rows: str) -> str:
        options = ["--recipe", "digits", "--batch", "2", "--device", "cpu", "--row-seconds", "0.03"]
        monkeypatch.setattr(sys, "argv", ["", *options, "--out", str(out), "--only", *rows])
        gpu_speed.main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_rows_are_kept_and_not_measured_twice(tmp_path: Path, run) -> None:
    """Catches a row that a later one overwrites, a half line that breaks the next start, and a
    ratio of rows that were not measured.
    """
    first = run(tmp_path, "train-eager", "train-graph")
    assert "| train-graph | it needs a CUDA device |" in first
    assert "ratio training, recorded: not measured (expected 1.1-1.45) LOOK" in first
    kept = (tmp_path / "results.jsonl").read_text()
    eager = json.loads(kept.splitlines()[0])
    assert eager["row"] == "train-eager"
    assert eager["images_per_s"] == pytest.approx(2 * eager["steps_per_s"])
    (tmp_path / "results.jsonl").write_text(kept + '{"row": "train-di')

    again = run(tmp_path, "train-eager")
    assert again.strip().startswith("ratio")  # nothing was left to measure
    assert (tmp_path / "results.jsonl").read_text().startswith(kept)


def test_closing_lines_say_ok_within_and_look_outside() -> None:
    rows = {
        "train-eager": {"images_per_s": 100.0, "busy_share": 0.95},
        "train-graph": {"images_per_s": 120.0},
        "train-compiled": {"images_per_s": 150.0},
    }
    lines = gpu_speed.closing(rows)
    assert len(lines) == 10
    assert lines[0] == "ratio busy share of a training step 0.95 (expected 0.5-0.9) LOOK"
    assert lines[1] == "ratio training, recorded 1.20 (expected 1.1-1.45) OK"
    assert lines[2] == "ratio training, compiled 1.50 (expected 2.2-2.7) LOOK"


def test_every_row_is_planned_and_can_be_configured() -> None:
    """Catches a row that no plan names, and settings that a configuration refuses."""
    planned = (*gpu_speed.CEILINGS, *gpu_speed.ORDER)
    assert sorted(planned) == sorted(gpu_rows.ROWS)
    named = {one for _, *both, _, _ in gpu_speed.RATIOS for one in both if one is not None}
    assert named <= set(planned)
    options = gpu_rows.parser_of("").parse_args(["--device", "cpu"])
    for row in gpu_rows.ROWS.values():
        if row.kind in ("train", "sample"):
            config = gpu_rows.configuration(row, options)
            assert config.compute.cuda_graphs == row.graphs


def test_arithmetic_of_cifar10s_network() -> None:
    """12.44 GFLOP an image forward: the number that the share of the ceiling is taken of."""
    config = gpu_rows.configuration(
        gpu_rows.ROWS["train-eager"], gpu_rows.parser_of("").parse_args([])
    )
    assert gpu_rows.forward_flops(config) == pytest.approx(12.44e9, rel=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_busy_share_is_one_of_the_wall_time() -> None:
    """Catches overlapping kernels counted twice, and microseconds taken for milliseconds."""
    weight = torch.randn(4096, 4096, device="cuda")

    def work(num_steps: int) -> None:
        for _ in range(num_steps):
            weight @ weight

    work(1)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work(10)
    end.record()
    torch.cuda.synchronize()
    found = gpu_rows.busy(work, torch.device("cuda"))
    assert 0.5 < found["busy_ms"] / (begin.elapsed_time(end) / 10) < 1.5
    assert found["kernels"] >= 1
