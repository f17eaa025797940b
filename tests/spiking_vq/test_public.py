"""The public names, and what importing a part of the library leaves unloaded."""

import subprocess
import sys
from pathlib import Path

import pytest

import spiking_vq

DIFFUSION = sorted(path.stem for path in (Path(spiking_vq.__file__).parent / "diffusion").glob("[a-z]*.py"))


def loaded(statement):
    """Packages that are loaded after a statement in a fresh interpreter."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_diffusion_needs_torch_alone():
    heavy = {"snntorch", "torchvision", "safetensors", "lightning", "omegaconf", "sklearn", "diffusers", "PIL"}
    packages = loaded("import " + ", ".join(f"spiking_vq.diffusion.{module}" for module in DIFFUSION))
    assert not packages & heavy
    assert "spiking_vq" in packages


def test_importing_the_package_loads_nothing():
    assert not loaded("import spiking_vq; dir(spiking_vq)") & {"torch", "numpy", "snntorch"}


def test_public_names():
    assert set(spiking_vq.__all__) == {"load", "LatentPipeline", "PixelPipeline", "LIF", "__version__"}
    assert set(spiking_vq.__all__) <= set(dir(spiking_vq))
    from spiking_vq import LIF, LatentPipeline, PixelPipeline, load

    assert spiking_vq.load is load
    assert issubclass(LatentPipeline, object)
    assert LIF(beta=0.5).beta == 0.5
    assert isinstance(load("mnist-base-gaussian"), PixelPipeline)
    assert spiking_vq.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="has no attribute 'generators_of_noise'"):
        _ = spiking_vq.generators_of_noise
