"""Fine-tuning: a network starts from the weights of a trained one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from spiking_vq.errors import InputError

ADDED = ("scales", "labels.weight")
"""Weights that fine-tuning may add to a trained network: scales of the spiking steps, and labels."""

OF_DATA = ("labels.weight", "data_variance")
"""Weights that describe the data: on other data they keep the values of the new network."""


def take_over(model: nn.Module, weights: Mapping[str, Tensor], same_data: bool, source: str) -> None:
    """Load trained weights into a network, which may have weights in `ADDED` beside them.

    Args:
        model: network to fine-tune; written to.
        weights: state dict of the trained network.
        same_data: whether that was trained on the same data; if not, weights in `OF_DATA` are not loaded.
        source: file of the weights, for the message.

    Raises:
        InputError: the weights are of another network.
    """
    if not same_data:
        weights = {name: value for name, value in weights.items() if not name.endswith(OF_DATA)}
    try:
        keys = model.load_state_dict(weights, strict=False)
        missing = [name for name in keys.missing_keys if not name.endswith((*ADDED, *OF_DATA))]
        if missing or keys.unexpected_keys:
            raise RuntimeError(f"{len(missing)} weights are missing, {len(keys.unexpected_keys)} unknown")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {source} do not fit this network: {reason}") from error
