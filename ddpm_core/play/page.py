"""The page: draw, watch, move between two images, paint a mask, compress."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar, get_args

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine

import gradio as gr
import numpy as np
from PIL import Image

from ddpm_core.api import Run
from ddpm_core.config.prompts import cut_text
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.choices import Sampler, is_of_one_step
from ddpm_core.errors import ConfigError, DataError, PipelineError
from ddpm_core.play.shown import enlarged, mask_of, sheet_of
from ddpm_core.servers.port import HOST, require_free
from ddpm_core.servers.server import use_directly

_FEW_STEPS = 50
_MOMENTS = 8
_SHOWN = 24
"""times a drawing is shown while it is made"""
_MOST = 64
"""images of one drawing"""
_PROMPT = "what the images show; empty: as the run's own samples"
_PAINT = "paint over what is to be made anew"
P = ParamSpec("P")
R = TypeVar("R")


def page_of(run: Run) -> gr.Blocks:
    """Return the page of a run, not served yet.

    One drawing at a time computes; others wait.
    """
    acts = _Acts(run)
    config = run.config
    about = (
        f"**{run.weights.name}** · {config.data.name} {'×'.join(map(str, config.data.shape))} · "
        f"{config.num_parameters / 1e6:.2f} M parameters"
    )
    with gr.Blocks(title=f"{config.name}: play", analytics_enabled=False) as page:
        gr.Markdown(f"# {config.name}\n{about}")
        with gr.Row():
            with gr.Column(scale=1):
                sampler, steps = _sampler_of(run)
                label = gr.Dropdown(
                    ["all in turn", *acts.classes],
                    value="all in turn",
                    label="class",
                    visible=bool(acts.classes),
                    elem_id="class",
                )
                prompt = gr.Textbox(
                    label="prompt", info=_PROMPT, visible=acts.takes_text, elem_id="prompt"
                )
                guidance = gr.Slider(
                    0, max(10, config.sample.guidance_scale),
                    value=config.sample.guidance_scale, step=0.1,
                    label="guidance", visible=acts.is_guided, elem_id="guidance",
                )  # fmt: skip
                seed = gr.Number(0, precision=0, label="seed", elem_id="seed")
            with gr.Column(scale=3):
                how = [sampler, steps, label, prompt, guidance, seed]
                with gr.Tab("draw"):
                    _draw_tab(acts, how)
                if acts.edits:
                    with gr.Tab("between two"):
                        _between_tab(acts, how)
                    with gr.Tab("paint"):
                        _paint_tab(acts, how)
                    with gr.Tab("compress"):
                        _code_tab(acts, how)
    page.queue(default_concurrency_limit=1, api_open=False)
    return page


def serve(run: Run, *, port: int) -> None:
    """Serve the page on loopback until the process is interrupted.

    Raises:
        ConfigError: the port is none, or taken.
    """
    require_free(port, option="--port ")
    use_directly()  # Gradio asks its own page whether it is there
    # What is drawn and what is sent lies in files until the page is closed: none stays behind, and
    # another user's page has a folder of its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="ddpm-play-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        _launch(page_of(run), port)


def _launch(page: gr.Blocks, port: int) -> None:
    # The default theme's letters would be fetched from elsewhere.
    theme = gr.themes.Default(font="sans-serif", font_mono="monospace")
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            prevent_thread_lock=True,
        )
    except OSError:  # it names variables of Gradio's
        raise ConfigError(f"port {port} was taken by another program just now") from None
    page.block_thread()


class _Acts:
    """What the buttons do."""

    def __init__(self, run: Run) -> None:
        self.run, self._one = run, threading.Lock()
        enlarges = run.config.model.low_size is not None
        self.edits = not isinstance(run.denoiser, BitDenoiser) and not enlarges
        sample = run.config.sample
        # What is enlarged says of what it is: nothing is left to choose.
        self.classes = () if enlarges else run.classes
        self.takes_text = run.takes_text and not enlarges
        is_given = bool(run.classes) or run.takes_text
        self.is_guided = self.edits and (is_given or sample.guidance_by is not None)

    def draw(self, count: int, *how: Any) -> Iterator[tuple[Image.Image, str]]:  # noqa: ANN401
        """Show images while they are drawn."""
        every = max(1, int(how[1]) // _SHOWN)
        with self._one:
            for moment in self.run.stream(int(count), every=every, **self._wish(*how)):
                yield sheet_of(moment.images), f"step {moment.step} of {moment.num_steps}"

    def one(self, *how: Any, index: int = 0) -> Any:  # noqa: ANN401
        """Draw one image; the second is of the next class where all come in turn."""
        with self._one:
            return self.run.sample([index], **self._wish(*how))[0]

    def between(
        self,
        file: str | None,
        other_file: str | None,
        other_seed: float | None,
        depth: float,
        *how: Any,  # noqa: ANN401
    ) -> Image.Image:
        """Take or draw two images, and draw what lies between them."""
        ends = [
            self._image(file, *how),
            self._image(other_file, *how[:-1], other_seed, index=1),
        ]
        with self._one:
            way = self.run.interpolate(ends[0], ends[1], _MOMENTS, depth=depth)
        return sheet_of(np.concatenate([ends[:1], way, ends[1:]]), num_columns=_MOMENTS + 2)

    def canvas(self, file: str | None, *how: Any) -> tuple[dict[str, Any], Any, str]:  # noqa: ANN401
        """Return what is painted on, the image that it shows (the user's, else one that is drawn),
        and what to do with it.
        """
        image = self._image(file, *how)
        picture = enlarged(image)
        return {"background": picture, "layers": [], "composite": picture}, image, _PAINT

    def paint(self, painted: dict[str, Any] | None, image: Any, *how: Any) -> Image.Image:  # noqa: ANN401
        """Make anew what was painted over of the image that was taken, in four ways."""
        data = self.run.config.data
        layers = [] if painted is None else painted["layers"]
        mask = mask_of(layers, data.height, data.width)
        if not mask.any():
            raise gr.Error("nothing is painted over yet", print_exception=False)
        if image is None:
            raise gr.Error("take an image first", print_exception=False)
        wish = self._wish(*how)
        wish["labels"] = wish["labels"] if len(wish["labels"]) == 1 else []
        with self._one:
            made = self.run.edit(np.stack([image] * 4), mask=mask, **wish)
        return sheet_of(np.concatenate([image[None], made]), num_columns=5)

    def code(self, file: str | None, *how: Any) -> tuple[Image.Image, list[list[str]]]:  # noqa: ANN401
        """Send an image, and show it while it comes."""
        image = self._image(file, *how)
        with self._one:
            moments = self.run.code(image, _MOMENTS)
        images = np.stack([one.image for one in moments] + [image])
        rows = [
            ["bits/dim received", *(f"{one.bits_per_dim:.3f}" for one in moments)],
            ["error in levels", *(f"{one.rmse:.1f}" for one in moments)],
        ]
        return sheet_of(images, num_columns=len(images)), rows

    def _image(self, file: str | None, *how: Any, index: int = 0) -> Any:  # noqa: ANN401
        """Return the image of a file that was sent, else one that is drawn."""
        if not file:
            return self.one(*how, index=index)
        try:
            return self.run.read(file)
        except DataError as error:  # where it lies on this machine is no one's business
            raise DataError(str(error).replace(file, Path(file).name)) from None

    def _wish(
        self,
        sampler: str,
        steps: float,
        label: str,
        prompt: str,
        guidance: float,
        seed: float | None,
    ) -> dict[str, Any]:
        config, taken = self.run.config, int(steps)
        # Where all steps are taken no number is given: some samplers take no other.
        is_whole = taken == config.diffusion.num_timesteps and config.sample.num_steps is None
        wish: dict[str, Any] = {
            "sampler": sampler,
            "steps": None if is_whole else taken,
            "labels": [label] if label in self.classes else list(self.classes),
            "seed": None if seed is None else int(seed),
        }
        if self.takes_text and (text := prompt.strip()):
            wish["prompts"] = [text]
            if (cut := cut_text([text], config.model.text_length)) is not None:
                gr.Warning(cut)
        return wish | ({"guidance": float(guidance)} if self.is_guided else {})


def _sampler_of(run: Run) -> tuple[gr.Dropdown, gr.Slider]:
    chain, sample = run.config.diffusion.num_timesteps, run.config.sample
    is_few = isinstance(run.denoiser, BitDenoiser) or chain <= _FEW_STEPS
    is_few = is_few or is_of_one_step(run.config.diffusion.prediction)
    sampler = gr.Dropdown(
        ["ancestral"] if isinstance(run.denoiser, BitDenoiser) else list(get_args(Sampler)),
        value=sample.sampler if is_few or sample.num_steps else "ddim",
        label="sampler",
        elem_id="sampler",
    )
    own = chain if is_few else sample.num_steps or _FEW_STEPS
    steps = gr.Slider(2, chain, value=own, step=1, label="steps", elem_id="steps")
    return sampler, steps


def _draw_tab(acts: _Acts, how: list[Any]) -> None:
    count = gr.Slider(1, _MOST, value=16, step=1, label="images", elem_id="count")
    button = gr.Button("draw", variant="primary", elem_id="draw")
    sheet, note = _picture("drawn"), gr.Markdown(elem_id="draw-note")
    button.click(_in_words(acts.draw), [count, *how], [sheet, note])


def _between_tab(acts: _Acts, how: list[Any]) -> None:
    with gr.Row():
        file, other_file = _file("one end"), _file("the other end")
    other = gr.Number(1, precision=0, label="seed of the other image, where it is drawn")
    # From half of the chain on, little is left of either in small images: all come out alike.
    depth = gr.Slider(0, 1, value=0.25, step=0.05, label="depth: how far both are noised")
    button = gr.Button("go", variant="primary", elem_id="between")
    gr.Markdown("The two images at the ends, beside them their reconstructions.")
    given = [file, other_file, other, depth, *how]
    button.click(_in_words(acts.between), given, _picture("between-sheet"))


def _paint_tab(acts: _Acts, how: list[Any]) -> None:
    file = _file("an image of yours")
    start = gr.Button("take the image", elem_id="take")
    note = gr.Markdown(elem_id="take-note")
    editor = gr.ImageEditor(
        label=_PAINT, type="numpy", image_mode="RGBA",
        brush=gr.Brush(default_size=40, colors=["#d02020"], color_mode="fixed"),
        transforms=(), sources=(), layers=False, elem_id="editor",
    )  # fmt: skip
    button = gr.Button("make anew", variant="primary", elem_id="paint")
    # Seed and sampler may be others by then: what is painted on is what was taken.
    taken = gr.State(None)
    start.click(_in_words(acts.canvas), [file, *how], [editor, taken, note])
    button.click(_in_words(acts.paint), [editor, taken, *how], _picture("painted"))


def _code_tab(acts: _Acts, how: list[Any]) -> None:
    file = _file("an image of yours")
    button = gr.Button("send", variant="primary", elem_id="code")
    sheet = _picture("code-sheet")
    gr.Markdown("From noise to what is received when all has come; the last is the image itself.")
    table = gr.Dataframe(headers=["", *map(str, range(1, _MOMENTS + 1))], show_label=False)
    button.click(_in_words(acts.code), [file, *how], [sheet, table])


def _file(name: str) -> gr.File:
    return gr.File(label=f"{name} (else one is drawn)", file_types=["image"], height=130)


def _picture(name: str) -> gr.Image:
    return gr.Image(
        format="png", type="pil", show_label=False, interactive=False, elem_id=name,
        buttons=["download", "fullscreen"],
    )  # fmt: skip


def _in_words(act: Callable[P, R]) -> Callable[P, R]:
    """Show a refusal on the page in the program's own words."""
    if isgeneratorfunction(act):

        @wraps(act)
        def streamed(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401
            try:
                yield from act(*args, **kwargs)
            except PipelineError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return streamed

    @wraps(act)
    def done(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return act(*args, **kwargs)
        except PipelineError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return done
