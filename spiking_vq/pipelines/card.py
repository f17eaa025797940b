"""Model cards for the Hugging Face hub: its metadata, how to use the model, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spiking_vq.config.compare import portable
from spiking_vq.config.schema import Config, DenoiserConfig
from spiking_vq.config.yaml_files import to_yaml
from spiking_vq.data.datasets import TITLES

KINDS = {
    "absorbing": "A VQ-SVAE and the spiking denoiser of absorbing diffusion on its tokens",
    "gaussian": "A spiking U-Net of Gaussian diffusion",
}
"""Stage of a model that generates -> what it is."""

TAGS = {"absorbing": ("discrete-diffusion", "vq-vae"), "gaussian": ("gaussian-diffusion",)}
"""Stage -> the hub's tags, in addition to those of all models."""

DATASETS = {"mnist": "ylecun/mnist", "fmnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Data set -> its name on the hub, where it is the official one."""

USE = """## Use

```python
import spiking_vq  # pip install 'spiking_vq[hub]'

pipe = spiking_vq.load("{name}")
images = pipe({images}).images  # PIL images
```"""


def shipped_card(file: Path, config: DenoiserConfig, name: str) -> str:
    """The card of a model that ships, for a copy of it.

    Args:
        file: that ships; its description and card lie next to it.
        config: its configuration.
        name: word that loads the copy.
    """
    description = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    protocols = (part for part in description["measured"].values() if "metrics" in part)
    metrics = dict.fromkeys(metric for protocol in protocols for metric in protocol["metrics"])
    official = not description.get("stand_in")
    about, section, rest = file.with_suffix(".md").read_text(encoding="utf-8").partition("## ")
    parts = [_metadata(config, "apache-2.0", metrics, official), about.rstrip(), _use(config, name), section + rest]
    return "\n\n".join(parts)


def own_card(config: DenoiserConfig, name: str) -> str:
    """The card of any other model: what its configuration says, and that nothing was measured.

    Args:
        config: of the model.
        name: word that loads it.
    """
    config = portable(config)
    data, network = TITLES.get(config.data, config.data), "spikes" if config.neuron == "lif" else "does not spike"
    about = f"{KINDS[config.stage]}, trained on {data}: preset `{config.preset}`, T = {config.T}; it {network}."
    unmeasured = (
        "Quality, firing rates and energy of these weights have not been measured, and their author has not named a"
        f" licence. `spiking-vq evaluate {name}` and `spiking-vq inspect {name}` measure them."
    )
    parts = [_metadata(config, "unknown"), f"# {data} `{config.preset}`", about, unmeasured, _use(config, name)]
    return "\n\n".join([*parts, configuration(config)]) + "\n"


def configuration(config: Config) -> str:
    """The section of a card that shows the configuration."""
    return f"## Configuration\n\n```yaml\n{to_yaml(asdict(config)).rstrip()}\n```"


def _metadata(config: DenoiserConfig, licence: str, metrics: Iterable[str] = (), official: bool = True) -> str:
    """The YAML block that the hub reads.

    Args:
        config: of the model.
        licence: identifier of the hub.
        metrics: that were measured.
        official: it was trained on the data set's own files, not on a stand-in.
    """
    fields: dict[str, Any] = {
        "license": licence,
        "library_name": "spiking_vq",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["spiking-neural-network", "image-generation", *TAGS[config.stage]],
    }
    if official and config.data in DATASETS:
        fields["datasets"] = [DATASETS[config.data]]
    if metrics := list(metrics):
        fields["metrics"] = metrics
    return f"---\n{to_yaml(fields).rstrip()}\n---"


def _use(config: DenoiserConfig, name: str) -> str:
    images = f"class_labels={config.labels[:4]}" if config.conditional else "batch_size=4"
    return USE.format(name=name, images=images)
