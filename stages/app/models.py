"""Models that the page offers, and the settings that each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from torchvision.datasets import KMNIST, FashionMNIST

from spiking_vq.errors import InputError, require_finite, require_integer, require_one_of
from spiking_vq.pipelines import zoo
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import PIPELINES, load
from stages.compare.tables import TITLES

CLASSES = {
    "fmnist": FashionMNIST.classes,
    "kmnist": KMNIST.classes,
    "letters": list(ascii_uppercase),
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}
"""Data set -> names of its classes; a digit is its own name."""

ANY = -1
"""Stands for no label in a list of labels."""

MOST = {"temperature": 3.0, "last_temperature": 3.0, "guidance": 5.0}
"""Setting -> its largest value on the page, unless the model's own is larger."""

MOST_CALLS = 256
"""Calls of the network on the page at most, unless the model's own are more."""

KEPT = 3
"""Models that stay in memory."""


@dataclass(frozen=True)
class Models:
    """Models that ship, and one of the user's own.

    Attributes:
        path: file of the model that the page begins with; one of the user's own is offered next to those that ship.
        device: of torch.
    """

    path: Path
    device: str = "cpu"

    @property
    def first(self) -> str:
        """Name of the model that the page begins with."""
        return self.path.stem if self.path.parent == zoo.ZOO else str(self.path)

    @property
    def titles(self) -> dict[str, str]:
        """Name, as `spiking-vq sample` takes it -> title for the reader."""
        names = zoo.shipped(*(pipeline.stage for pipeline in PIPELINES))
        return {self.first: self.first} | {name: _title(name) for name in names}

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of a model by its name; the last few stay in memory.

        Raises:
            InputError: the page does not offer such a model.
        """
        require_one_of("model", name, self.titles)
        return _loaded(self.path if name == self.first else zoo.located(name), self.device)


@lru_cache(KEPT)
def _loaded(path: Path, device: str) -> Pipeline:
    if path.name == zoo.EXPORTED:
        raise InputError(
            f"{path.parent} is an export, and the page counts spikes of models: name the one it was made of"
        )
    return load(path, device)


def _title(name: str) -> str:
    """Title of a model that ships, such as `MNIST, large` for `mnist-large-absorbing`."""
    data, preset, stage = name.split("-")
    return f"{TITLES[data]}, {preset}" + (", pixels (slow)" if stage == "gaussian" else "")


class Controls(NamedTuple):
    """Settings of a model that the page lets people change.

    Attributes:
        labels: (name, label) of the labels, `ANY` first; empty if the model is not class-conditional.
        most_calls: the largest number of calls of the network.
        values: setting -> the model's own value; without those that it does not have.
        most: the largest value of each of `values` but the calls.
    """

    labels: list[tuple[str, int]]
    most_calls: int
    values: dict[str, Any]
    most: dict[str, float]


def controls(pipeline: Pipeline) -> Controls:
    """The settings that a model has; a model with distilled guidance needs no other."""
    config, own = pipeline.config, pipeline.sampling()
    hidden = ("guidance",) if getattr(config, "distilled_guidance", 0) else ()
    names = [name for name in ("sample_steps", *MOST) if own.get(name) is not None and name not in hidden]
    values = {name: own[name] for name in names}
    most_calls = min(pipeline.diffusion.diffusion_steps, max(MOST_CALLS, values["sample_steps"]))
    labels = config.labels if config.conditional else []
    return Controls(
        [("any", ANY), *((class_name(config.data, label), label) for label in labels)] if labels else [],
        most_calls,
        values,
        {name: max(most, values[name]) for name, most in MOST.items() if name in values},
    )


def class_name(data: str, label: int) -> str:
    """Label and, where its data set has one, name of a class."""
    names = CLASSES.get(data, [])
    return f"{label}: {names[label]}" if label < len(names) else str(label)


def settings(pipeline: Pipeline, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of the sampler, from what a person chose.

    Args:
        pipeline: of the model.
        given: by name, `label` and those of `Controls.values`; settings that the model does not have are ignored.

    Raises:
        InputError: a value is missing or out of range, or the settings contradict each other.
    """
    has = controls(pipeline)
    chosen = {name: given.get(name) for name in has.values}
    require_integer("calls", chosen["sample_steps"], 1, has.most_calls)
    for name, most in has.most.items():
        require_finite(name.replace("_", " "), chosen[name])
        if not 0 <= chosen[name] <= most:
            raise InputError(f"{name.replace('_', ' ')} must be in 0..{most:g}; got {chosen[name]}")
    if has.values.get("guidance") == chosen.get("guidance"):
        chosen.pop("guidance", None)  # the model's own: with a label, one of 0 becomes 1
    label = given.get("label", ANY) if has.labels else ANY
    if label != ANY:
        chosen["label"] = label
        if chosen.get("guidance") == 0:
            raise InputError("guidance 0 ignores the label: raise it, or choose any label")
    return pipeline.sampling(**chosen)


def completes(pipeline: Pipeline) -> bool:
    """Whether a model can complete pictures."""
    return isinstance(pipeline, LatentPipeline)
