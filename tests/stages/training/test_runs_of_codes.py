"""Both stages, samples, evaluation and inspection of networks with several codes a position, end to end and tiny."""

import json

import numpy as np
import pytest
import torch
from small_runs import CLASSIFIER, STAGE1, STAGE2, rows
from torch import nn

from spiking_vq.checkpoint.file import load_model
from spiking_vq.errors import InputError
from stages import sample, train
from stages.absorbing import cached_tokens
from stages.evaluate import report as evaluate
from stages.inspect import report as inspect

COUNT = [
    *("model.quantizer=count", "model.num_codes=2", "model.codebook_size=9", "model.encoding=rate"),
    *("model.spike_generator=direct", "model.ema_decay=0", "model.restart_below=0", "model.decoder_blocks=[2,1,0]"),
]
CODES = {
    "count": COUNT,
    "product": ["model.quantizer=product", "model.num_codes=2"],
    "residual": ["model.quantizer=residual", "model.num_codes=2", "model.decoder_channels=[6,4]"],
}
SOON_AWAKE = ["lif.threshold=0.3", "rate.weight=0"]
AWAKE = {"count": ["train.max_steps=60", "rate.weight=0"], "product": SOON_AWAKE, "residual": SOON_AWAKE}
"""So that neurons fire after so few steps; those of direct spikes need a threshold of 1, and more steps."""

CLASSES = {"count": 9, "product": 16, "residual": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Function of a quantiser: the folder of its runs, of a few steps of both stages; trained when first asked for."""
    made = {}

    def runs(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            train.main([*STAGE1, *CODES[name], *AWAKE[name], f"runs={made[name]}"])
            train.main([*STAGE2, f"runs={made[name]}"])
            train.main([*CLASSIFIER, "train.max_steps=2", f"runs={made[name]}"])
        return made[name] / "digits/base"

    return runs


@pytest.mark.parametrize("name", CODES)
def test_runs_from_images_to_reports(trained, tmp_path, name):
    runs, K = trained(name), CLASSES[name]
    validated = [row for row in rows(runs / "vq_svae/metrics.csv") if row["val/mse"]]
    assert all(0 < float(row["val/mse"]) < 1 for row in validated)
    assert 1 < max(float(row["val/perplexity"]) for row in validated) <= K
    model, config = load_model(runs / "absorbing/model.safetensors")
    assert model.vq_svae.code_grid == (2, 3, 3)
    assert config.vq_svae.model.num_codes == 2

    sample.main(["data=digits", "preset=base", "n=5", f"runs={runs.parents[1]}", f"out={tmp_path / 'out'}"])
    tokens = np.load(tmp_path / "out/tokens.npy")
    assert (tokens.shape, tokens.dtype) == ((5, 2, 3, 3), np.int64)
    assert 0 <= tokens.min() < tokens.max() < K

    places = ["data=digits", "preset=base", f"runs={runs.parents[1]}", f"data_dir={tmp_path}", f"results={tmp_path}"]
    evaluate.main([*places, "protocol=val", "features=classifier", "n=12"])
    (path,) = (tmp_path / "digits/base").glob("val*.json")
    report = json.loads(path.read_text())
    stage1 = report["stage1"]
    assert (stage1["codes_a_position"], stage1["codebook_size"]) == (2, K)
    assert stage1["bits_per_image"] == pytest.approx(18 * np.log2(K))
    assert 2 <= stage1["codes_used"] <= 2 * K
    assert 1 <= stage1["perplexity"] <= K
    assert report["likelihood"]["bits_per_token"] == pytest.approx(report["likelihood"]["bits_per_image"] / 18)
    books = {"count": 0, "product": 2 * 16 * 2, "residual": 2 * 16 * 4}[name]
    weights = sum(weight.numel() for weight in model.vq_svae.parameters())
    assert report["parameters"]["vq_svae"] == weights + books  # codes are averages, which are no parameters to torch

    inspect.main([*places, "n=1", "sample_steps=4"])
    report = json.loads((tmp_path / "digits/base/inspection.json").read_text())
    real = {"count": set(), "product": {"vq_svae.spike_generator.current.0"}}
    assert set(report["purity"]["real_valued"]) == real.get(name, real["product"])
    assert report["energy"]["relu"]["calls"] == 4
    assert (tmp_path / "digits/base/filmstrip.png").is_file()
    assert (tmp_path / "digits/base/raster.png").is_file()


@pytest.mark.parametrize(("neuron", "bits"), [("relu", None), ("quantised", 2)])
def test_the_twins_of_spike_counts_train(tmp_path, neuron, bits):
    """The preset's T gives the number of classes; the twin's is 1."""
    runs = [f"runs={tmp_path}", "train.max_steps=2"]
    train.main([*STAGE1, *COUNT, *runs, "T=1", f"neuron={neuron}", *([f"activation_bits={bits}"] if bits else [])])
    train.main([*STAGE2, *runs, "T=1", f"neuron={neuron}", *([f"activation_bits={bits}"] if bits else [])])
    model, config = load_model(tmp_path / "digits/base/absorbing/model.safetensors")
    assert (config.vq_svae.T, model.vq_svae.quantizer.levels, model.vq_svae.code_grid) == (1, 3, (2, 3, 3))
    tokens = model.vq_svae.tokenize(torch.rand(4, 1, 12, 12))
    assert model.vq_svae.decode(tokens).shape == (4, 1, 12, 12)


class Tokenizer(nn.Module):
    """Stands in for a stage 1 of so many classes: two codes, the levels of the first pixels and the last class."""

    def __init__(self, codebook_size, code_grid=(2, 1, 3)):
        super().__init__()
        self.codebook_size, self.code_grid, self.asked = codebook_size, code_grid, 0
        self.weight = nn.Parameter(torch.zeros(1))

    def tokenize(self, images):
        self.asked += 1
        tokens = (images.flatten(1)[:, :6] * 255).round().long()
        tokens[:, 5] = self.codebook_size - 1
        return tokens.view(-1, *self.code_grid)


@pytest.fixture
def pixels():
    """Five uint8 images."""
    return torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("classes", "kept"), [(300, np.int16), (2**15 - 1, np.int16), (2**15, np.int32), (5**13, np.int32)]
)
def test_kept_tokens_hold_every_class(tmp_path, pixels, classes, kept):
    tokenizer = Tokenizer(classes)
    made = cached_tokens(tokenizer, "a", pixels, tmp_path)
    (path,) = tmp_path.iterdir()
    assert np.load(path).dtype == kept
    assert torch.equal(cached_tokens(tokenizer, "a", pixels, tmp_path), made)
    assert tokenizer.asked == 1
    assert (made.dtype, made.shape, made.max().item()) == (torch.int64, (5, 2, 1, 3), classes - 1)


def test_kept_tokens_of_one_code_may_lack_its_axis(tmp_path, pixels):
    """Files of earlier versions are [N, h, w]; those of another shape are made again."""
    tokenizer = Tokenizer(300, (1, 2, 3))
    made = cached_tokens(tokenizer, "a", pixels, tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, np.load(path).squeeze(1))
    assert torch.equal(cached_tokens(tokenizer, "a", pixels, tmp_path), made)
    assert tokenizer.asked == 1
    np.save(path, np.load(path)[:, :1])
    assert torch.equal(cached_tokens(tokenizer, "a", pixels, tmp_path), made)
    assert tokenizer.asked == 2


def test_the_published_denoiser_refuses_several_codes(trained, tmp_path):
    stage1 = f"stage1={trained('product') / 'vq_svae/model.safetensors'}"
    own = [argument for argument in STAGE2 if not argument.startswith("model.")]
    with pytest.raises(InputError, match="model.num_codes of stage 1 must be 1 for the SDID; got 2"):
        train.main([*own, "preset=paper", stage1, f"runs={tmp_path}"])
