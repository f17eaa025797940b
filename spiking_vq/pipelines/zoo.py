"""Where trained weights lie: those that ship, and those of your own runs."""

from __future__ import annotations

from pathlib import Path

from spiking_vq.errors import InputError
from spiking_vq.files import read_path

ZOO = Path(__file__).parents[1] / "zoo"


def shipped(name: str | Path, *stages: str) -> Path:
    """The file of this name if there is one, else that of the weights that ship: `mnist` or `mnist-base`.

    Args:
        name: a file, a data set, data set and preset, or data set, preset and stage.
        stages: of the weights; the first that there is.

    Raises:
        InputError: neither; the message lists what ships.
    """
    named = [ZOO / f"{name}{preset}-{stage}.safetensors" for stage in stages for preset in ("", "-base")]
    named += [ZOO / f"{name}.safetensors"] if str(name).endswith(stages) else []
    for path in (read_path("path", name), *named):
        if path.is_file():
            return path
    there = sorted(path.stem for path in ZOO.glob("*.safetensors") if path.stem.endswith(stages))
    raise InputError(
        f"no model file at {name}, and no weights of this name ship: give the path of a model.safetensors, or one of"
        f" {', '.join(there) or 'none'}"
    )


def find_model(stage: str, data: str, preset: str, runs: str | Path = "runs", ckpt: str | Path | None = None) -> Path:
    """The file to use: the one named, else that of your own run, else the one that ships.

    Of an unfinished run it is the best checkpoint so far; but a classifier, which judges others, must be finished.

    Args:
        stage: `absorbing`; `vq_svae`, which a stage-2 file holds too; `gaussian`; or `classifier`.
        data, preset: of the run or of the shipped weights.
        runs: folder of the run folders.
        ckpt: a file that was named; it must exist.

    Raises:
        InputError: there is none; the message names the places looked at.
    """
    holders = [stage, "absorbing"] if stage == "vq_svae" else [stage]
    folder, file = read_path("runs", runs), read_path("ckpt", ckpt) if ckpt else None
    names = ["model.safetensors"] if stage == "classifier" else ["model.safetensors", "best.ckpt"]
    own = [folder / data / preset / holder / name for name in names for holder in holders]
    shipped = [ZOO / f"{data}-{preset}-{holder}.safetensors" for holder in holders]
    for path in [file] if file else [*own, *shipped]:
        if read_path("the model's file", path).is_file():
            return path
    if file:
        raise InputError(f"no model file at {file}")
    there = ", ".join(sorted(path.name for path in ZOO.glob("*.safetensors"))) or "none"
    train = {"classifier": "`make classifier`", "gaussian": "`make unet`"}.get(stage, "`make stage1` and `make stage2`")
    name = "classifier=" if stage == "classifier" else "CKPT="
    raise InputError(
        f"no trained {stage} model for DATA={data} PRESET={preset}: looked for {own[0]}, then among the shipped ones"
        f" ({there}). Train it with {train}, or name a file with {name}."
    )
