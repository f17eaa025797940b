"""Results as HTML; pictures and files are inside it, so that no file is left on the disk."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from spiking_vq.energy import constants
from stages.app.generate import Frame, Made, files, png
from stages.app.spikes import Spikes, explanation
from stages.inspect.printed import SIDES
from stages.inspect.verdicts import microjoules
from stages.sample import as_grid, columns

TYPES = {"png": "image/png", "zip": "application/zip", "npy": "application/octet-stream"}

MEMORY = (
    "Arithmetic alone counts the operations. With nothing reused, every operation also fetches its weight, and a spike"
    " its sum, from memory. Weight-stationary keeps weights and membranes in the core that uses them, and events come"
    " to them."
)
"""The models of memory in a sentence each."""


def embedded(content: bytes, kind: str) -> str:
    """A file as an address that holds it; `kind` is one of `TYPES`."""
    return f"data:{TYPES[kind]};base64,{b64encode(content).decode()}"


def hint(text: str) -> str:
    """A place for results that are not there yet."""
    return f'<div class="hint">{escape(text)}</div>'


def grid(images: Tensor, about: str) -> str:
    """All images, uint8 [n, C, H, W], as one picture."""
    source = embedded(png(as_grid(images)), "png")
    sizes = f'data-columns="{columns(len(images))}" data-count="{len(images)}"'
    return f'<img class="pixels" src="{source}" alt="{escape(about)}" {sizes}>'


def address(image: Tensor) -> str:
    """One image, uint8 [C, H, W], as an address that holds it."""
    return embedded(png(to_pil_image(image)), "png")


def status(shown: Frame | Made, title: str) -> str:
    """A line on what the grid shows."""
    if isinstance(shown, Frame):
        return f"Call {shown.calls} of {shown.total}"
    n = len(shown.samples.images)
    return f"{n} image{'s' if n > 1 else ''} by {title}, seed {shown.seed}. Click one to see its spikes."


def downloads(made: Made) -> str:
    """A link for each file of a set."""
    links = (
        f'<a download="{escape(made.model.split("/")[-1])}-{made.seed}-{name}"'
        f' href="{embedded(content, name.rpartition(".")[2])}">{name}</a>'
        for name, content in files(made.samples).items()
    )
    return f'<div class="downloads">{"".join(links)}</div>'


def spikes(measured: Spikes, settings: Mapping[str, Any], index: int) -> str:
    """Raster, rates and energy of an image."""
    head = "".join(f"<th>{escape(side)}</th>" for side in SIDES.values())
    rows = "".join(
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{_marked(value, values)}</td>" for value in values) + "</tr>"
        for name, values in measured.energies.items()
    )
    return (
        f'<figure class="raster"><img src="{embedded(measured.raster, "png")}" alt="raster of spikes"></figure>'
        f"<p><b>Image {index}.</b> A dash is a spike, a row a neuron, a column a spiking step; blank is silence."
        f" {escape(explanation(measured, dict(settings)))}</p>"
        f'<div class="scroll"><table><caption>Microjoules for this image; the lowest is bold</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="small">The twins are the same networks without spikes, and with activations of few bits. {MEMORY}'
        f" Counted, not measured on a chip: {escape(constants()['source'])}.</p>"
    )


def _marked(value: float, values: list[float]) -> str:
    return f"<b>{microjoules(value)}</b>" if value == min(values) else microjoules(value)
