"""The events of the page: each is answered by a function on plain values, whose mistakes become messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from inspect import isgeneratorfunction
from secrets import randbelow
from threading import Event
from typing import Any

import gradio as gr
from torch import Tensor

from spiking_vq.errors import LARGEST_SEED, InputError
from stages.app import complete, show
from stages.app.generate import Made, generate
from stages.app.models import Models, completes
from stages.app.page import CHOOSE, EMPTY, FIRST_TAB, NAMES, Eraser, Inputs, Page, Results, layout, settings_of
from stages.app.spikes import NO_SPIKES, has_spikes, spikes_of

COMPUTING = {"concurrency_limit": 1, "concurrency_id": "computing", "api_visibility": "private"}
"""Of events that compute: one at a time, whoever asks; the others wait in a queue."""

AT_ONCE = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that are answered at once."""


def build(models: Models, ended: Event) -> gr.Blocks:
    """The page for these models; `ended` ends the work that is going on."""
    page = layout(models)
    with page.blocks:
        _connect_model(models, page)
        _connect_generation(models, ended, page)
        _connect_completion(models, page.inputs, page.eraser)
    return page.blocks


def messages(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the `InputError` of a function, or of a generator, into a message on the page."""

    def told(error: InputError) -> gr.Error:
        return gr.Error(escape(str(error)), title="That does not work", print_exception=False)

    @wraps(answer)
    def whole(*values: Any) -> Any:
        try:
            return answer(*values)
        except InputError as error:
            raise told(error) from None

    @wraps(answer)
    def step_by_step(*values: Any) -> Iterator[Any]:
        try:
            yield from answer(*values)
        except InputError as error:
            raise told(error) from None

    return step_by_step if isgeneratorfunction(answer) else whole


def as_given(label: Any, values: tuple[Any, ...]) -> dict[str, Any]:
    """Label and values of the sliders by name, as `models.settings` takes them."""
    return {"label": label} | dict(zip(NAMES, values, strict=True))


def _connect_model(models: Models, page: Page) -> None:
    """Another model has other settings, and begins anew."""
    inputs, results, eraser = page.inputs, page.results, page.eraser

    @messages
    def choose(name: str) -> dict[Any, Any]:
        pipeline = models.pipeline(name)
        label, *sliders = settings_of(pipeline)
        changes = {inputs.label: gr.Dropdown(**label)}
        changes |= {slider: gr.Slider(**new) for slider, new in zip(inputs.settings, sliders, strict=True)}
        changes |= cleared(results) | {results.grid: show.hint(EMPTY), results.status: ""}
        changes |= {eraser.picture: None, eraser.cells: gr.HTML("", image="")}
        changes |= {eraser.missing: gr.update(visible=not completes(pipeline))}
        changes |= {eraser.group: gr.update(visible=completes(pipeline))}
        return changes | {eraser.completions: show.hint(CHOOSE)}

    shown = [inputs.label, *inputs.settings, *results, *eraser[:4], eraser.completions]
    inputs.model.change(choose, inputs.model, shown, **AT_ONCE)


def _connect_generation(models: Models, ended: Event, page: Page) -> None:
    inputs, results, eraser = page.inputs, page.results, page.eraser

    @messages
    def make(n: int, name: str, seed: int, label: int, *values: float) -> Iterator[dict[Any, Any]]:
        yield {page.tabs: gr.Tabs(selected=FIRST_TAB)} | cleared(results)
        for item in generate(models, name, n, seed, as_given(label, values), ended):
            images = item.samples.images if isinstance(item, Made) else item.images
            told = show.status(item, models.titles[name])
            yield {results.grid: show.grid(images, told), results.status: told}
        yield {
            results.made: item,
            results.downloads: show.downloads(item),
            results.line: gr.update(value=item.line, visible=True),
            results.index: gr.update(value=0, visible=n > 1),
        }

    @messages
    def look(made: Made | None, index: int, part: str) -> dict[Any, Any]:
        if made is None:
            return {results.spikes: ""}
        pipeline = models.pipeline(made.model)
        image = made.image(index)
        changes = {eraser.picture: image, eraser.cells: erased(pipeline, image, part)} if completes(pipeline) else {}
        if has_spikes(pipeline):
            return changes | {results.spikes: show.spikes(spikes_of(pipeline, made, index), made.settings, index)}
        return changes | {results.spikes: show.hint(NO_SPIKES)}

    def clicked(event: gr.EventData) -> int:
        return int(event.index)

    looking = (look, [results.made, results.index, eraser.part], [results.spikes, eraser.picture, eraser.cells])
    making = inputs.generate.click(
        make, [inputs.n, *inputs.chosen], [page.tabs, *results], **COMPUTING, show_progress_on=results.status
    )
    making.success(*looking, **COMPUTING, show_progress="minimal")
    results.index.input(*looking, **COMPUTING, show_progress="minimal", trigger_mode="always_last")
    chosen = results.grid.select(clicked, None, results.index, **AT_ONCE)
    chosen.success(*looking, **COMPUTING, show_progress="minimal")
    stopping = inputs.stop.click(None, cancels=[making], **AT_ONCE)
    stopping.then(lambda told: told.replace("Call", "Stopped at call"), results.status, results.status, **AT_ONCE)
    inputs.new_seed.click(lambda: randbelow(LARGEST_SEED + 1), None, inputs.seed, **AT_ONCE)


def cleared(results: Results) -> dict[Any, Any]:
    """Removes what belongs to the set before."""
    hidden = {component: gr.update(visible=False) for component in (results.line, results.index)}
    return hidden | {results.made: None, results.downloads: "", results.spikes: ""}


def erased(pipeline: Any, image: Tensor, part: str) -> gr.HTML:
    """The picture on the second tab, with a part erased."""
    columns = pipeline.model.vq_svae.grid[1]
    return gr.HTML(complete.part(part, pipeline), image=show.address(image), columns=columns)


def _connect_completion(models: Models, inputs: Inputs, eraser: Eraser) -> None:
    @messages
    def read(name: str, content: bytes, part: str) -> tuple[Any, ...]:
        pipeline = models.pipeline(name)
        upload = complete.read_upload(content, pipeline)
        if upload.changes:
            gr.Info(f"The picture was {upload.changes}.")
        return upload.image, erased(pipeline, upload.image, part)

    @messages
    def erase(name: str, part: str, image: Tensor | None) -> Any:
        return gr.skip() if image is None else erased(models.pipeline(name), image, part)

    @messages
    def finish(image: Tensor | None, cells: str, name: str, seed: int, label: int, *values: float) -> str:
        made = complete.complete(models.pipeline(name), image, cells, seed, as_given(label, values))
        return show.grid(made.images, "completions")

    uploaded = [inputs.model, eraser.upload, eraser.part]
    eraser.upload.upload(read, uploaded, [eraser.picture, eraser.cells], api_visibility="private")
    eraser.part.input(erase, [inputs.model, eraser.part, eraser.picture], eraser.cells, **AT_ONCE)
    eraser.button.click(finish, [eraser.picture, eraser.cells, *inputs.chosen], eraser.completions, **COMPUTING)
