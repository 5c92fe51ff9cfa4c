"""Table 2 of the paper as a page; table 4 is tested with its figure."""

from ddpm_core.study.tables import ablation_markdown


def row(**changes) -> dict:
    return {
        "num_steps": 250,
        "num_samples": 64,
        "diverged": None,
        "inception_score": 5.125,
        "frechet_distance_train": 12.345,
        "frechet_distance_test": 99.0,
        "bits_per_dim": 3.5,
        "paper": {"inception_score": 7.67, "fid": 13.51},
        **changes,
    }


def test_the_page_has_ours_and_the_paper_s_numbers_in_their_columns():
    """Catches: score and distance exchanged, the paper's numbers for ours, rows shifted."""
    rows = [
        row(),
        row(inception_score=None, paper={"inception_score": 9.46, "fid": 3.17}),
        row(diverged="the loss is nan", inception_score=None, frechet_distance_train=None,
            bits_per_dim=None),
        row(paper={"inception_score": None, "fid": None}),
    ]  # fmt: skip
    labels = ["first", "no classes", "diverged here", "diverged there"]
    page = ablation_markdown(rows, labels, "digits").splitlines()
    assert page[0] == "# Ablations on digits: 250 optimiser steps each, 64 samples"
    head, line, *table = [text for text in page if text.startswith("|")]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "Prediction, objective, variance", "Inception score", "Fréchet distance (train)",
        "Bits/dim", "Paper, CIFAR-10: IS", "FID",
    ]  # fmt: skip
    assert table == [
        "| first | 5.12 | 12.35 | 3.50 | 7.67 | 13.51 |",
        "| no classes | – | 12.35 | 3.50 | 9.46 | 3.17 |",
        "| diverged here | unstable | unstable | unstable | 7.67 | 13.51 |",
        "| diverged there | 5.12 | 12.35 | 3.50 | unstable | unstable |",
    ]
    assert {text.count("|") for text in (head, line, *table)} == {7}
    assert "not with the paper's" in page[-1]
