"""Quantisers: from the encoder's vectors [B, D, h, w] to tokens [B, G, h, w], G codes a position, and back."""

from __future__ import annotations

from spiking_vq.errors import require, require_one_of
from spiking_vq.models.quantizers.count import CountQuantizer
from spiking_vq.models.quantizers.several import ProductQuantizer, ResidualQuantizer
from spiking_vq.models.quantizers.vector import Quantizer, VectorQuantizer

QUANTIZERS = {
    "vq": VectorQuantizer,
    "product": ProductQuantizer,
    "residual": ResidualQuantizer,
    "count": CountQuantizer,
}


def build_quantizer(
    quantizer: str, num_codes: int, codebook_size: int, embedding_dim: int, **options: float
) -> Quantizer:
    """The quantiser of a name in `QUANTIZERS`; `options` are those of `VectorQuantizer`.

    Raises:
        InputError: another name, or sizes that do not fit.
    """
    require_one_of("quantizer", quantizer, QUANTIZERS)
    require(num_codes >= 1, "num_codes", "at least 1", num_codes)
    if quantizer == "count":
        return CountQuantizer(num_codes, codebook_size, embedding_dim)
    if quantizer == "vq":
        require(num_codes == 1, "num_codes", "1 with quantizer=vq", num_codes)
        return VectorQuantizer(codebook_size, embedding_dim, **options)
    return QUANTIZERS[quantizer](num_codes, codebook_size, embedding_dim, **options)
