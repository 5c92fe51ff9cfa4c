"""Every command of every page, run by `make docs-commands`; the gate runs a part of them."""

import shlex
import subprocess
import time

import pytest

from tests.docs.pages import ROOT, blocks, pages
from tests.docs.running import Desk, missing, outputs, run_blocks
from tests.docs.small import smaller
from tests.end_to_end.conftest import shell_in


def text_of(page):
    return (ROOT / page).read_text()


PAGES = [page for page in pages() if run_blocks(page, text_of(page))]
CODE = {"", "bash", "console", "sh", "python", "py"}
"""languages of what a reader would run"""
QUICK = """
    export WORD='of two blocks'
    cd ..

```python
print(sum(range(1815)), "done in 3 s")
```

<!-- output -->
```text
1,000 done in 4 min
```

    test "$WORD" = 'of two blocks' && cd 'a checkout'
    python -m ddpm_core shard digits --run short --dry-run | grep '"num_steps": 800'
    make() { echo "$PORT" >>../ports; echo started!; sleep 60; }
    make ui
    make play
    test "$(sort -u ../ports | wc -l)" = 2
"""


def said_otherwise(desk, page, text):
    """Return what the page shows and its blocks did not say."""
    return [
        (str(shown), line)
        for block, shown in outputs(page, text)
        for line in missing(shown.text, desk.log(block).read_text())
    ]


@pytest.mark.pages
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path, capfd):
    """Catches: a command that is refused, fails, or says something else than the page."""
    desk, text = Desk(tmp_path / "a desk"), text_of(page)
    desk.prepare(text)
    begun = time.monotonic()
    with shell_in(tmp_path) as shell:
        failed = desk.run(page, text, shell)
    other = [] if failed else said_otherwise(desk, page, text)
    with capfd.disabled():  # at once: the last page is an hour away
        print(f"\n{page}, {time.monotonic() - begun:.0f} s: {failed or other or 'as it says'}")
    assert not failed, failed
    assert not other


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_page_without_ray(tmp_path):
    """Catches: a command of it that fails, and a way of running pages that nobody tried."""
    page = "docs/new-sampler.md"
    desk, text = Desk(tmp_path / "a desk", is_here=True), text_of(page)
    desk.prepare(text)
    with shell_in(tmp_path) as shell:
        failed = desk.run(page, text, shell)
    assert not failed, failed
    (last,) = [one for one in run_blocks(page, text) if "ddpm_core sample" in one.text]
    assert "unipc" in desk.log(last).read_text()


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_or_says_why_not(page, tmp_path):
    """Catches: a block that neither `make docs-commands` runs nor a reader knows the reason of."""
    text = text_of(page)
    code = [one for one in blocks(page, text) if one.language in CODE]
    left = [one for one in code if one.reason is None]
    desk = Desk(tmp_path)
    script = desk.script(page, text) if left else ""
    for block in left:
        if block.language == "python":
            assert f"{block.line}.py" in script
            assert (tmp_path / f"{block.line}.py").read_text() == block.text
        else:
            assert block.text in script.replace("\nserve ", "\n")
    assert (page in PAGES) == bool(left)
    assert all(len(one.reason.split()) >= 2 for one in code if one.reason is not None)
    of = {block for block, _ in outputs(page, text)}
    assert of <= set(left), "an output of what is not run"
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
def test_a_page_is_run_with_its_state_and_its_output_is_held(tmp_path):
    """Catches: blocks that do not follow each other, and commands whose failure nobody sees."""
    desk = Desk(tmp_path / "a desk")
    desk.prepare(QUICK)
    with shell_in(tmp_path) as shell:
        assert not desk.run("page", QUICK, shell)
        assert not said_otherwise(desk, "page", QUICK)
        other = QUICK.replace("1,000 done", "1,000 seen")
        assert said_otherwise(desk, "page", other) == [("page:11", "1,000 seen in 4 min")]
        bad = "    true | false\n    echo beyond\n"
        assert desk.run("page", bad, shell).startswith("page:1 ended with 1\n")
        assert " is not done, 1 s after" in desk.run("page", "    sleep 60\n", shell, timeout_s=1)
        refused = "    ddpm shard digits --set train.num_step=3 --dry-run\n"
        assert "train.num_step" in desk.run("page", refused, shell)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (  # what the recipe says is divided too, and bounded; the page's own settings stay
            "-m ddpm_core sample digits --set sample.num_images=1000 --set sample.seed=3",
            "sample digits --set sample.seed=3 --set train.num_steps=16 --set "
            "train.global_batch_size=16 --set train.warmup_steps=2",
        ),
        ("-m ddpm_core sample short --model @400:raw", "sample short --model @8:raw"),
        (
            "-m flows.train_ddpm images --size 128 --scale M --dry-run",
            "images --size 128 --scale M --dry-run",
        ),
        ("-m ddpm_core runs list", "runs list"),
        ("-m ddpm_core report digits digits-dit", "report digits digits-dit"),
        ("run digits --run x", "run digits --run x --set train.num_steps=16"),
    ],
)
def test_the_rule_of_smaller_sizes(words, expected):
    """Catches: a training that stays long, a dry run of other sizes, a lost option."""
    said = shlex.join(smaller(shlex.split(words)))
    assert expected in said
    if "num_images=1000" in words:
        assert "num_images=16" in said
        assert "1000" not in said
