"""The layout of the page; `events` brings it to life."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from spiking_vq.pipelines.base import Pipeline
from stages.app import complete, show
from stages.app.generate import MOST_IMAGES
from stages.app.models import ANY, Models, completes, controls
from stages.app.widgets import erasable, image_grid

CSS = Path(__file__).with_name("page.css")

INTRODUCTION = (
    '<div class="title"><h1>spiking_vq</h1><p>A spiking neural network makes images here, on this machine. It draws'
    " them token by token, in a few calls; grey is still masked. README.md tells how it works.</p></div>"
)

EMPTY = "Press Generate: 64 images take as long as one."

CHOOSE = "Generate an image, or upload one."

NAMES = {
    "sample_steps": ("Calls", "of the network: more is slower"),
    "temperature": ("Temperature", "higher is more varied"),
    "last_temperature": ("Temperature of the last call", "approached in equal steps"),
    "guidance": ("Guidance", "higher follows the label more closely"),
}
"""Setting -> its title and an explanation."""


FIRST_TAB = "generate"


class Inputs(NamedTuple):
    """Components of the column at the left."""

    model: gr.Dropdown
    label: gr.Dropdown
    n: gr.Slider
    seed: gr.Number
    settings: list[gr.Slider]
    generate: gr.Button
    stop: gr.Button
    new_seed: gr.Button

    @property
    def chosen(self) -> list[Any]:
        """Those that every generation reads."""
        return [self.model, self.seed, self.label, *self.settings]


class Results(NamedTuple):
    """Components that show a generated set."""

    grid: gr.HTML
    status: gr.Markdown
    downloads: gr.HTML
    line: gr.Textbox
    index: gr.Number
    spikes: gr.HTML
    made: gr.State


class Eraser(NamedTuple):
    """Components of the second tab."""

    missing: gr.Markdown
    group: gr.Column
    picture: gr.State
    cells: gr.HTML
    part: gr.Radio
    upload: gr.UploadButton
    button: gr.Button
    completions: gr.HTML


class Page(NamedTuple):
    """The page and its parts."""

    blocks: gr.Blocks
    inputs: Inputs
    tabs: gr.Tabs
    results: Results
    eraser: Eraser


def layout(models: Models) -> Page:
    """The page before anything happens, for the model that it begins with."""
    pipeline = models.pipeline(models.first)
    with gr.Blocks(title="spiking_vq", delete_cache=(600, 3600), analytics_enabled=False) as blocks:
        gr.HTML(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = _inputs(models, pipeline)
            with gr.Column(scale=5, min_width=300), gr.Tabs() as tabs:
                with gr.Tab("Generate", id=FIRST_TAB):
                    results = _results()
                with gr.Tab("Complete a picture"):
                    eraser = _eraser(completes(pipeline))
    return Page(blocks, inputs, tabs, results, eraser)


def settings_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Properties of the label and of the sliders for a model."""
    has = controls(pipeline)
    properties = [{"choices": has.labels or [("any", ANY)], "value": ANY, "visible": bool(has.labels)}]
    for name in NAMES:
        least, most, step = (1, has.most_calls, 1) if name == "sample_steps" else (0, has.most.get(name, 1), 0.01)
        bounds = {"minimum": least, "maximum": most, "step": step, "value": has.values.get(name, most)}
        properties.append(bounds | {"visible": name in has.values})
    return properties


def _inputs(models: Models, pipeline: Pipeline) -> Inputs:
    named, sliders = settings_of(pipeline)[0], settings_of(pipeline)[1:]
    titles = [(title, name) for name, title in models.titles.items()]
    model = gr.Dropdown(titles, value=models.first, label="Model", elem_id="model")
    label = gr.Dropdown(**named, label="Label", elem_id="label")
    n = gr.Slider(1, MOST_IMAGES, 16, step=1, label="Images", elem_id="n")
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, min_width=120, scale=2)
        new_seed = gr.Button("New seed", min_width=100, elem_classes="beside")
    with gr.Row():
        generate = gr.Button("Generate", variant="primary", scale=2, min_width=120, elem_id="generate")
        stop = gr.Button("Stop", min_width=100)
    with gr.Accordion("Sampler", open=False):
        named = zip(NAMES.values(), sliders, strict=True)
        settings = [gr.Slider(label=title, info=info, **properties) for (title, info), properties in named]
    return Inputs(model, label, n, seed, settings, generate, stop, new_seed)


def _results() -> Results:
    grid = image_grid(show.hint(EMPTY), "grid")
    status = gr.Markdown(elem_id="status", elem_classes="status")
    downloads = gr.HTML(elem_id="downloads")
    line = gr.Textbox(
        label="The command that makes these images", lines=2, visible=False, buttons=["copy"], elem_id="line"
    )
    index = gr.Number(0, label="Image, counted from 0", precision=0, visible=False, elem_id="index")
    spikes = gr.HTML(elem_classes="spikes", elem_id="spikes")
    return Results(grid, status, downloads, line, index, spikes, gr.State(time_to_live=3600))


def _eraser(completes: bool) -> Eraser:
    missing = gr.Markdown(complete.PIXELS_ONLY, visible=not completes)
    with gr.Column(visible=completes) as group:
        gr.Markdown(
            "Erase a part of the picture, and the network draws it anew, in several ways. Seed, label and sampler are"
            " those at the left; without a label, the network sees only what was kept."
        )
        with gr.Row():
            with gr.Column(min_width=280):
                cells = erasable("eraser")
                upload = gr.UploadButton("Upload a picture", type="binary", file_types=["image"], elem_id="upload")
                part = gr.Radio(list(complete.PARTS), value="lower half", label="Erase, or drag over the picture")
                button = gr.Button("Complete", variant="primary", elem_id="complete")
            with gr.Column(min_width=280):
                completions = gr.HTML(show.hint(CHOOSE), elem_classes="grid", elem_id="completions")
    return Eraser(missing, group, gr.State(time_to_live=3600), cells, part, upload, button, completions)
