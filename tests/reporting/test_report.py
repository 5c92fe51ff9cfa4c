"""The page of a run."""

import re
from dataclasses import replace

import pytest

from ddpm_core.__main__ import main
from ddpm_core.reporting.gathered import gather
from ddpm_core.reporting.report import differences, report_of
from ddpm_core.runs import results
from ddpm_core.runs.dataset_names import NamedSet
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.run import open_run
from tests.sampling.tiny import (  # noqa: F401 - fixtures
    _evaluated_root,
    _sampled_root,
    _trained_root,
    classifier_config,
    evaluated,
    one_thread,
    store,
    tiny_config,
    trained,
)


def test_a_page_holds_what_the_manifests_say_and_needs_nothing_else(evaluated):  # noqa: F811
    """Catches: another number than the one measured, a picture left out, a file that the page
    refers to, and a script."""
    where, config = evaluated
    facts = gather(where, config)
    page = report_of([facts])
    value = facts.metrics["bits_per_dim"]["value"]
    assert f"<b>{value:.3f}</b>" in page
    pictures = [one for found in facts.stages.values() for one in found.pictures]
    assert {"grid", "strip", "loss-figure"} <= {one.role for one in pictures}
    # And that of the first training images.
    assert page.count("data:image/png;base64,") == len(pictures) + 1
    assert facts.weights.sha256 in page
    assert facts.index.fingerprint[:16] in page
    assert "1,500 images" in page
    assert not re.search(r"""<script|(src|href)=["'](?!data:|#)""", page)
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors == set(re.findall(r'<h2 id="([^"]+)"', page))


def test_names_are_text(trained):  # noqa: F811
    """Catches: a class or a file of somebody's folder that becomes a part of the page."""
    where, config = trained
    facts = gather(where, config)
    names = ("<script>alert(1)</script>", "a&b", '"><img src=x>')
    label = facts.index.label
    changed = type(label)(names, dict.fromkeys(label.counts, (1, 2, 3)))
    index = facts.index
    others = {**index.others, "label": changed}
    facts = type(facts)(
        **{**vars(facts), "index": type(index)(**{**vars(index), "others": others})}
    )
    page = report_of([facts])
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "<img src=x>" not in page


def test_a_run_on_a_named_data_set_says_so(trained):  # noqa: F811
    """Catches: the source that such a run has not, in the place of what it was trained on."""
    facts = gather(*trained)
    config = facts.config.replaced({"data.sets": "strokes@3f2a90c1"})
    assert "the data set strokes@3f2a90c1" in report_of([replace(facts, config=config)])


def test_what_is_not_there_is_said_and_damage_is_named(evaluated):  # noqa: F811
    """Catches: a run without an evaluation refused, and a damaged file shown for a whole one."""
    where, config = evaluated
    found = results.samples_of(where, config)
    key = f"{found.folder}/{found.files['grid'].name}"
    where.delete(key)
    where.write(key, b"no picture")
    facts = gather(where, config)
    assert "sample" in facts.missing
    assert "sample" not in facts.stages
    assert "nothing is measured yet" in report_of([gather(where, config.replaced({"name": "new"}))])


def test_of_several_runs_the_differences_come_first(trained, tmp_path, capsys):  # noqa: F811
    """Catches: keys that are equal in all, one that a run lacks, and runs in another order."""
    where, config = trained
    open_run(where, config)
    other = config.replaced({"name": "other", "train.num_steps": 20, "diffusion.kind": "flow"})
    open_run(where, other)
    rows = {key: values for key, *values in differences([config, other])}
    assert rows["train.num_steps"] == ["10", "20"]
    assert rows["diffusion.beta_schedule"][1] == "-"
    assert "model.kind" not in rows
    out = tmp_path / "a folder" / "both.html"
    assert main(["report", "tiny", "other", "--root", where.uri, "--out", str(out)]) == 0
    page = out.read_text()
    assert page.index("what differs") < page.index("all of tiny") < page.index("all of other")
    assert out.as_uri() in capsys.readouterr().out
    assert main(["report", "none", "--root", where.uri, "--out", str(out)]) == 2


@pytest.mark.parametrize("num_runs", [1, 2])
def test_anchors_are_unique(trained, num_runs):  # noqa: F811
    """Catches: links of the second run that lead into the first."""
    where, config = trained
    page = report_of([gather(where, config)] * num_runs)
    anchors = re.findall(r' id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors)) == 6 * num_runs


def test_a_page_says_only_what_was_done(trained):  # noqa: F811
    """Catches: imported weights that pass for a training's, a command that trains others in their
    place, and a classifier or an untrained network that is said to draw images."""
    where, config = trained
    facts = gather(where, config)
    draws, again = "draws images like those", "flows.train_ddpm"
    assert draws in report_of([facts])
    checkpoint = facts.weights.checkpoint
    body = {**checkpoint.body, "imported": {"format": "diffusers", "unet": "0123abcd"}}
    weights = replace(facts.weights, checkpoint=replace(checkpoint, body=body))
    page = report_of([replace(facts, weights=weights)])
    assert "The weights were imported" in page
    assert "0123abcd" in page
    assert not re.search(f"{again}|random weights|to the last bit", page)
    assert draws not in report_of([replace(facts, weights=None)])
    judge = report_of([replace(facts, config=classifier_config())])
    assert draws not in judge
    assert "says of which class" in judge


def test_a_training_that_is_not_at_its_end_is_shown_as_far_as_it_is(trained):  # noqa: F811
    """Catches: a page that says all steps were taken, and one without the curve so far."""
    where, config = trained
    longer = gather(where, config.replaced({"train.num_steps": 20}))
    page = report_of([longer])
    assert "<td>10 of 20</td>" in page
    assert f"<td>{10 * config.train.global_batch_size}</td>" in page
    assert longer.curve
    assert "loss of the training, mean" in page
    assert "not trained to its end yet" in page


def test_the_data_card_says_names_licence_and_parts(trained):  # noqa: F811
    """Catches: a mixture shown as one set, and images of which nobody sees what may be done."""
    facts = gather(*trained)
    pointer = DatasetPointer(facts.index.manifest.folder, facts.index.fingerprint)
    named = NamedSet("strokes", pointer, 1, "/data/strokes", "CC BY 4.0")
    page = report_of([replace(facts, named=(named,), parts=("a@1, weight 3", "b@2, weight 7"))])
    for words in (named.pinned, "/data/strokes", "CC BY 4.0", "a@1, weight 3", "b@2, weight 7"):
        assert words in page


def test_what_does_not_compare_is_said(trained):  # noqa: F811
    """Catches: numbers of two data sets, of other numbers of images, or losses of two kinds, side
    by side as if the lower were the better."""
    facts = gather(*trained)
    bits = {"bits_per_dim": {"value": 5.0, "protocol": {"num_images": 64}}}
    more = {"bits_per_dim": {"value": 4.0, "protocol": {"num_images": 256}}}
    alike = report_of([replace(facts, metrics=bits), replace(facts, metrics=bits)])
    assert not re.search("different data sets|other numbers of images|do not compare", alike)
    index = replace(facts.index, fingerprint="0" * 64)
    flow = facts.config.replaced({"diffusion.kind": "flow"})
    unlike = replace(facts, metrics=more, index=index, config=flow)
    page = report_of([replace(facts, metrics=bits), unlike])
    assert "They are of different data sets" in page
    assert "bits per dim: measured on other numbers of images (64, 256)" in page
    assert "the curves do not compare" in page
