"""Model cards of the weights that ship: training, metrics next to their floors, speed, firing rates, energy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.compare import differences
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import AbsorbingConfig, Config, SpikingConfig
from spiking_vq.errors import require
from spiking_vq.pipelines.card import KINDS, configuration
from spiking_vq.pipelines.zoo import located
from stages.cli.options import CONFIGS
from stages.compare.tables import TITLES, UNLABELLED, read_evaluations
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.hardware import TITLES as HARDWARE
from stages.reporting.markdown import cells, table
from stages.reporting.report import Report, inspected, report_folder, write_report, write_text
from stages.reporting.spread import Spread

SHOWN = {
    "fid": ("FID", 1),
    "kid": ("KID x 1000", 1000),
    "classifier_distance": ("classifier distance", 1),
    "precision": ("precision", 1),
    "recall": ("recall", 1),
}
"""Name of a metric -> its title, and a factor."""

CLASSIFIER = "The classifier that evaluation uses; it does not spike"
PLACES = ("stage", "data", "preset", "ckpt", "stage1", "runs", "data_dir", "tokens_dir", "results", "device")
"""Arguments of recorded commands that name the model, or folders of one machine."""


def update_cards(zoo: Path, results: Path) -> None:
    """Update the descriptions and cards of all models in a folder.

    Raises:
        InputError: there are none, or a report cannot be read.
    """
    descriptions = sorted(zoo.glob("*.json"))
    require(descriptions != [], f"the models in {zoo}", "at least one: `spiking-vq publish` puts them there", 0)
    for path in descriptions:
        update_card(path, results)


def update_card(path: Path, results: Path) -> None:
    """Take the reports in `results` on a model, known by its hash, into its description, and write its card.

    Args:
        path: the description, a JSON file next to the weights and the card.
        results: folder of the reports.

    Raises:
        InputError: the description or a report cannot be read.
    """
    _, config = load_model(path.with_suffix(".safetensors"))
    description = Report.read(path)
    folder = report_folder(results, config.stage, config.data, config.preset)
    description.contents["measured"] = measured(folder, description.get(str, "sha256"))
    text = card(description, config)
    write_report(path, description.contents)
    write_text(path.with_suffix(".md"), text)


def measured(folder: Path, sha256: str) -> dict[str, Any]:
    """The measurements of the file with this hash, from the reports in a folder.

    Returns:
        Protocol -> its metrics, and those of images without labels as `unlabelled`; `calls` and `energy`; all where
        measured. `firing_rate` of each stage that fires.
    """
    reports, unlabelled = (
        {name: found for name, found in read_evaluations(folder, form, PROTOCOLS).items() if found.is_on(sha256)}
        for form in ("{}", UNLABELLED)
    )
    measurements: dict[str, Any] = {
        name: {
            "command": report.get(str, "command"),
            "about": report.get(str, "about"),
            "counts": report.get(dict, "counts"),
            "sampler": report.get(dict, "sampler"),
            "metrics": {metric: report.get(object, "metrics", metric) for metric in SHOWN},
            "floor": {metric: report.get(object, "floor", metric, default=None) for metric in SHOWN},
            "floor_std": {metric: report.get(float, "floor_std", metric, default=None) for metric in SHOWN},
            "memorisation": report.get(dict, "memorisation"),
        }
        for name, report in reports.items()
    }
    for name in reports.keys() & unlabelled.keys():
        spreads = {metric: unlabelled[name].get(object, "metrics", metric) for metric in SHOWN}
        measurements[name]["unlabelled"] = spreads
    parts = (report.part("firing_rate", default={}) for report in reports.values())
    rates = inspected(folder, "firing_rate", sha256) or next((part for part in parts if part.contents), None)
    measurements["firing_rate"] = {stage: rates.get(float, stage, "all") for stage in rates.contents} if rates else {}
    calls = folder / "calls.json"
    if calls.is_file() and (report := Report.read(calls)).is_on(sha256):
        names = ("command", "images", "seeds", "precision", "sampler", "rows")
        measurements["calls"] = {name: report.get(object, name) for name in names}
    if energy := inspected(folder, "energy", sha256):
        image = energy.part("spiking", "image")
        measurements["energy"] = {
            f"{name}_uj": image.get(float, f"{name}_pj") / 1e6 for name in ("arithmetic", "memory")
        }
        hardware = energy.part("spiking", "energy_pj", default={}).get(dict, "image", default={})
        measurements["energy"]["weight_stationary_uj"] = {
            arithmetic: energies["weight_stationary"] / 1e6 for arithmetic, energies in hardware.items()
        }
    return measurements


def card(description: Report, config: Config) -> str:
    """The model card in Markdown.

    Args:
        description: of the file, with its measurements.
        config: of the file.
    """
    file, stand_in = description.get(str, "file"), description.get(str, "stand_in", default="")
    kind, data = KINDS.get(config.stage, CLASSIFIER), TITLES.get(config.data, config.data)
    lines = [f"# `{file}`", "", f"{kind}, trained on {data}."]
    lines += [f"The data are {stand_in}."] if stand_in else []
    lines += ["", f"{description.get(str, 'dtype')}, SHA-256 `{description.get(str, 'sha256')}`.", ""]
    lines += ["## Training", "", *training(description.part("training"), config), ""]
    results = description.part("measured")
    for protocol in (name for name in PROTOCOLS if name in results.contents):
        lines += [f"## {protocol}", "", *metrics(protocol, results.part(protocol), Path(file).stem), ""]
    if "calls" in results.contents:
        lines += ["## Speed and quality", "", *speed(results.part("calls"), Path(file).stem), ""]
    if isinstance(config, SpikingConfig) and config.neuron == "lif":
        lines += ["## Spikes", "", *spikes(results), ""]
    return "\n".join([*lines, configuration(config)]) + "\n"


def training(runs: Report, config: Config) -> Iterator[str]:
    """How each network in the file was trained, and the commands that train it from a clean clone."""
    configs = {"vq_svae": config.vq_svae} if isinstance(config, AbsorbingConfig) else {}
    presets = {stage: preset_of(part) for stage, part in (configs | {config.stage: config}).items()}
    taken_over = stage1_from(presets[config.stage])
    rows, commands = [], []
    for stage in runs.contents:
        run, preset = runs.part(stage), presets[stage]
        machine = run.part("machine")
        where = [machine.get(str, "cpu"), f"{machine.get(int, 'threads')} of {machine.get(int, 'cores')} cores"]
        where += [machine.get(str, "device"), f"torch {machine.get(str, 'torch')}"]
        start = preset.train.start_from if preset else None
        rows.append(
            {
                "network": stage,
                "parameters": f"{run.get(int, 'parameters'):,}",
                "steps": f"{run.get(int, 'steps'):,}",
                "minutes": f"{run.get(float, 'seconds') / 60:.1f}",
                "starts from": f"`{start}`" if start else "random weights",
                "machine": ", ".join(where),
            }
        )
        recorded = shown_command(run.get(str, "command"), "train", stage, f"data={config.data}")
        if stage == config.stage or taken_over is None:
            by_preset = preset and f"spiking-vq train {stage} data={config.data} preset={preset.preset}"
            commands.append(by_preset or recorded)
    yield from table(rows)
    yield ""
    if isinstance(config, AbsorbingConfig):
        whose = f"the stage 1 of `{taken_over}`" if taken_over else "its own stage 1"
        yield from (f"The denoiser was trained on {whose}, which is inside this file.", "")
    command = "Command that trains" if len(commands) == 1 else "Commands that train"
    yield from (f"{command} the same configuration from a clean clone:", "")
    yield from (f"    {command}" for command in commands)


def stage1_from(preset: Config | None) -> str | None:
    """The shipped model whose stage 1 a preset of stage 2 takes over: the one it starts from, if of the same data."""
    start = preset.train.start_from if isinstance(preset, AbsorbingConfig) else None
    return start if start and load_model(located(start))[1].data == preset.data else None


def preset_of(config: Config) -> Config | None:
    """The configuration of the preset that trains a network of this configuration; None if there is no such preset.

    Where there are several, that of the configuration's own name comes first.
    """
    files = sorted((CONFIGS / config.stage).glob("*.yaml"), key=lambda file: (file.stem != config.preset, file.stem))
    for preset in (load_config(config.stage, file, [f"data={config.data}"]) for file in files):
        changes = [line for line in differences(config, preset, incomplete=True) if not line.startswith("preset:")]
        if not changes and (preset.train.start_from is None) == (config.train.start_from_sha256 is None):
            return preset
    return None


def shown_command(recorded: str, *words: str) -> str:
    """A recorded command as it is given today, without the arguments in `PLACES`, empty ones, and the usual seed."""
    given = [text for text in shlex.split(recorded) if text.partition("=")[2] and text != "seed=0"]
    return shlex.join(["spiking-vq", *words, *(text for text in given if text.partition("=")[0] not in PLACES)])


def metrics(protocol: str, report: Report, model: str) -> list[str]:
    """The metrics of a protocol, next to their floors, and the command that measures them."""
    rows = []
    for name, (title, factor) in SHOWN.items():
        generated, floor = report.spread("metrics", name), report.spread("floor", name)
        if generated.mean is not None:
            std = report.get(float, "floor_std", name, default=None)
            unlabelled = report.spread("unlabelled", name)
            columns = {
                "generated images": generated,
                **({"without labels": unlabelled} if unlabelled.mean is not None else {}),
                "floor: real images": Spread(floor.mean, std),
            }
            rows.append({"metric": title} | {of: spread.scaled(factor).text() for of, spread in columns.items()})
    copied = [report.get(float, "memorisation", name) for name in ("authenticity", "authenticity_held_out")]
    given, real = (f"{value:.2f}" for value in copied)
    authenticity = {"metric": "authenticity", "generated images": given, "floor: real images": real}
    rows.append(dict.fromkeys(rows[0], "") | authenticity)
    sampler = ", ".join(f"{name} {value}" for name, value in report.get(dict, "sampler").items())
    counts = report.get(dict, "counts")
    why = ", all there are," if counts["generated"] < PROTOCOLS[protocol].generated else ""
    compared = "{generated:,} generated and {floor:,} real training images{why} with {reference:,}"
    about = f"{report.get(str, 'about')}. Compared were {compared.format(**counts, why=why)}. Sampler: {sampler}."
    return [about, "", *table(rows), "", f"    {shown_command(report.get(str, 'command'), 'evaluate', model)}"]


def speed(report: Report, model: str) -> list[str]:
    """Quality against network calls and spiking steps, and the command that measures it."""
    shown = ("sample_steps", "network calls", "spiking steps", *(title for title, _ in SHOWN.values()))
    rows = [cells({name: row.contents[name] for name in shown if name in row.contents}) for row in report.parts("rows")]
    about = (
        f"{report.get(int, 'images'):,} generated images against the validation images, seeds:"
        f" {report.get(int, 'seeds')}, {report.get(str, 'precision')}. The model's own `sample_steps` is"
        f" {report.get(int, 'sampler', 'sample_steps')}; other settings are its own in all rows. Network calls and"
        " spiking steps are those of an image; a guided step calls the network twice."
    )
    return [about, "", *table(rows), "", f"    {shown_command(report.get(str, 'command'), 'study', 'calls', model)}"]


def spikes(results: Report) -> list[str]:
    """Firing rates, and energy of an image."""
    rates = [f"{stage} {rate:.3f}" for stage, rate in results.get(dict, "firing_rate", default={}).items()]
    energy = results.part("energy", default={})
    cost = energy.contents and (
        f"{energy.get(float, 'arithmetic_uj'):,.0f} uJ of arithmetic for an image,"
        f" {energy.get(float, 'memory_uj'):,.0f} uJ of memory accesses (45 nm, nothing reused)"
    )
    stationary = energy.get(dict, "weight_stationary_uj", default={})
    if stationary:
        both = ", ".join(f"{uj:,.0f} uJ with {HARDWARE[name]}" for name, uj in stationary.items())
        cost = f"{cost}; in all, weight-stationary: {both}"
    return [f"Mean firing rate: {', '.join(rates) or 'not measured'}.", "", f"Energy: {cost or 'not measured'}."]
