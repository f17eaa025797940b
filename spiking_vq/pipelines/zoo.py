"""Files of trained models: those that ship, and those of your own runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiking_vq.errors import InputError, require
from spiking_vq.files import read_path
from spiking_vq.pipelines.hub import download, is_repository
from spiking_vq.pipelines.pretrained import MODEL, check_whole

ZOO = Path(__file__).parents[1] / "zoo"

STAGES = ("absorbing", "gaussian", "vq_svae")
"""Stages of the models that one word may name, in the order of search."""

WEIGHTS = (MODEL, "best.ckpt")
"""Files of a stage's folder that hold a model: of a finished and of an unfinished run."""

EXPORTED = "export.json"
"""File of an exported model's folder that names the others."""


def located(word: str | Path, *stages: str, revision: str | None = None) -> Path:
    """The file of a model that one word names.

    Args:
        word: a file; a run folder, of a preset (`runs/mnist/base`) or of a stage (`runs/mnist/base/absorbing`); the
            folder of an exported model, or one by `save_pretrained`; a model that ships, by data set, data set and
            preset, or data set, preset and stage (`mnist-base-gaussian`); or `owner/name`, a repository of the Hugging
            Face hub. A data set alone names its `large` model where one ships, else `base`.
        stages: of the model, in the order of search; `STAGES` if none are given.
        revision: of the repository; None (default) for the newest.

    Raises:
        InputError: there is none, and the message lists the models that ship; a folder that is half written; or no
            repository, see `hub.download`.
    """
    stages, path = stages or STAGES, read_path("model", word)
    own = [path, *(folder / file for folder in (path, *(path / stage for stage in stages)) for file in WEIGHTS)]
    own.append(path / EXPORTED)
    names = [f"{word}{preset}-{stage}" for stage in stages for preset in ("", "-large", "-base")]
    names += [str(word)] if str(word).endswith(stages) else []
    for file in (*own, *(ZOO / f"{name}.safetensors" for name in names)):
        if read_path("model", file).is_file():
            require(revision is None, "revision", f"left out: {word} is no repository of the hub", repr(revision))
            if file == path / MODEL:
                check_whole(path)
            return file
    if is_repository(word, revision):
        return download(word, revision)
    raise InputError(
        f"no model file at {word}: give the path of a model.safetensors, a run folder such as runs/mnist/base,"
        f" owner/name of a repository on the Hugging Face hub, or the name of a model that ships, one of"
        f" {_named(stages)}"
    )


def find_model(stage: str, data: str, preset: str, runs: str | Path = "runs", ckpt: str | Path | None = None) -> Path:
    """The file of a trained model: `ckpt` if given, else that of your own run, else the one that ships.

    Of an unfinished run it is the best checkpoint so far; a classifier, which evaluates others, must be finished.

    Args:
        stage: `absorbing`, `gaussian`, `classifier`, or `vq_svae`, which a stage-2 file holds too.
        data, preset: of the run or of the shipped model.
        runs: folder of the run folders.
        ckpt: a file; None (default) searches.

    Raises:
        InputError: there is none; the message names the paths that were searched.
    """
    holders = [stage, "absorbing"] if stage == "vq_svae" else [stage]
    if ckpt:
        files = [read_path("ckpt", ckpt)]
    else:
        run, names = read_path("runs", runs) / data / preset, WEIGHTS[:1] if stage == "classifier" else WEIGHTS
        files = [run / holder / name for name in names for holder in holders]
        files += [ZOO / f"{data}-{preset}-{holder}.safetensors" for holder in holders]
    for file in files:
        if read_path("model", file).is_file():
            return file
    if ckpt:
        raise InputError(f"no model file at {files[0]}")
    training = [
        f"`spiking-vq train {part}`" for part in (("vq_svae", "absorbing") if stage == "absorbing" else (stage,))
    ]
    raise InputError(
        f"no trained {stage} model for data={data} preset={preset}: neither {files[0]}, nor one that ships"
        f" ({_named(holders)}). Train it with {' and '.join(training)}, or name a file with"
        f" {'classifier' if stage == 'classifier' else 'ckpt'}="
    )


def shipped(*stages: str) -> list[str]:
    """The names of the models that ship of these stages, such as `mnist-base-absorbing`."""
    return sorted(path.stem for path in ZOO.glob("*.safetensors") if path.stem.endswith(stages))


def _named(stages: Sequence[str]) -> str:
    return ", ".join(shipped(*stages)) or "none"
