"""Runs that the tests of training share, and must not change."""

import pytest
from small_runs import ALL, CLASSIFIER, STAGE1, STAGE2, die_at, folders

from stages import train


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """All stages, trained without interruption; the folder of their run folders."""
    runs = tmp_path_factory.mktemp("unbroken")
    for arguments in ALL:
        train.main([*arguments, f"runs={runs}"])
    return runs / "digits/base"


@pytest.fixture(scope="session")
def half(unbroken, tmp_path_factory):
    """Killed runs of the classifier and of the denoiser: `last.ckpt` is of step 6, `best.ckpt` of 4 or 8."""
    runs = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 8)
        for arguments in (CLASSIFIER, STAGE2):
            with pytest.raises(RuntimeError, match="killed"):
                train.main([*arguments, *folders(unbroken, runs, arguments[0])])
    return runs


@pytest.fixture(scope="session")
def other_stage1(tmp_path_factory):
    """File of a stage 1 of another seed."""
    runs = tmp_path_factory.mktemp("other")
    train.main([*STAGE1, "seed=1", "train.max_steps=1", f"runs={runs}"])
    return runs / "digits/base/vq_svae/model.safetensors"
