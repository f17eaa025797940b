"""Model cards of the weights that ship: `spiking-vq publish cards`.

Takes up into each `spiking_vq/zoo/*.json` what was measured of that very file, told by its hash, in `results=`: the
figures of every protocol beside their floors, firing rates, energy. Renders each as a Markdown file beside it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import Config, SpikingConfig
from spiking_vq.config.yaml_files import to_yaml
from spiking_vq.errors import require
from spiking_vq.files import atomic_write, json_text
from spiking_vq.pipelines.zoo import ZOO
from stages.cli.options import parse_options
from stages.compare.tables import TITLES
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table
from stages.reporting.report import checked_contents, read_report, report_folder
from stages.reporting.spread import told

OPTIONS = {"zoo": ZOO, "results": Path("results")}

SHOWN = {
    "fid": ("FID", 1),
    "kid": ("KID x 1000", 1000),
    "classifier_distance": ("classifier distance", 1),
    "precision": ("precision", 1),
    "recall": ("recall", 1),
}
"""Name of a figure -> its title, and a factor."""

KINDS = {
    "absorbing": "A VQ-SVAE and the spiking denoiser of absorbing diffusion on its tokens",
    "gaussian": "A spiking U-Net of Gaussian diffusion",
    "classifier": "The classifier that evaluation uses; it does not spike",
}


def main(arguments: list[str]) -> None:
    """Gather, write, render."""
    options = parse_options(arguments, OPTIONS)
    zoo = Path(options["zoo"])
    descriptions = sorted(zoo.glob("*.json"))
    require(len(descriptions) >= 1, f"the models in {zoo}", "at least one: `make publish` puts them there", 0)
    for path in descriptions:
        _, config = load_model(path.with_suffix(".safetensors"))
        with checked_contents(options["results"]):
            description = read_report(path)
            *_, trained = description["training"].values()
            folder = report_folder(options["results"], *(trained[name] for name in ("stage", "data", "preset")))
            description |= {"measured": measured(folder, description["sha256"])}
            texts = {path: json_text(description), path.with_suffix(".md"): card(description, config)}
        for target, text in texts.items():
            with atomic_write(target) as temporary:
                temporary.write_text(text)
        print(f"wrote {path.with_suffix('.md')}")


def measured(folder: Path, sha256: str) -> dict[str, Any]:
    """What the reports in a folder say of the file with this hash; the others are passed over.

    Returns:
        Protocol -> its figures, and `energy`, where it was measured; `firing_rate` of each part that fires.
    """
    reports = {path.stem: read_report(path) for path in sorted(folder.glob("*.json"))}
    own = {name: report for name, report in reports.items() if report.get("checkpoint", {}).get("sha256") == sha256}
    found: dict[str, Any] = {
        protocol: {
            "command": own[protocol]["command"],
            "about": own[protocol]["about"],
            "counts": own[protocol]["counts"],
            "sampler": own[protocol]["sampler"],
            "metrics": {name: own[protocol]["metrics"][name] for name in SHOWN},
            "floor": {name: own[protocol]["floor"][name] for name in SHOWN},
            "floor_std": {name: own[protocol].get("floor_std", {}).get(name) for name in SHOWN},
            "memorisation": own[protocol]["memorisation"],
        }
        for protocol in PROTOCOLS
        if protocol in own
    }
    fires = next((report["firing_rate"] for report in own.values() if report.get("firing_rate")), {})
    found["firing_rate"] = {part: rates["all"] for part, rates in fires.items()}
    if "energy" in own:
        image = own["energy"]["spiking"]["image"]
        found["energy"] = {f"{name}_uj": image[f"{name}_pj"] / 1e6 for name in ("arithmetic", "memory")}
    return found


def card(description: dict[str, Any], config: Config) -> str:
    """A model's card, in Markdown.

    Args:
        description: of the file, with what was measured of it.
        config: it was trained with.
    """
    found, title, kind = description["measured"], TITLES.get(config.data, config.data), KINDS[config.stage]
    lines = [f"# `{description['file']}`", "", f"{kind}, trained on {title}."]
    if description["stand_in"]:
        lines += [f"What it was trained on and is compared with: {description['stand_in']}."]
    lines += ["", f"{description['dtype']}, SHA-256 `{description['sha256']}`.", "", "## Training", ""]
    lines += table([training_row(name, run) for name, run in description["training"].items()])
    lines += ["", *(f"    {run['command']}" for run in description["training"].values()), ""]
    for protocol in (name for name in PROTOCOLS if name in found):
        lines += ["## " + protocol, "", *figures(protocol, found[protocol]), ""]
    if isinstance(config, SpikingConfig) and config.neuron == "lif":
        lines += ["## Spikes", "", *spikes(found), ""]
    lines += ["## Configuration", "", "```yaml", to_yaml(asdict(config)).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def training_row(name: str, run: dict[str, Any]) -> dict[str, str]:
    """How one part was trained."""
    machine = run["machine"]
    return {
        "part": name,
        "parameters": f"{run['parameters']:,}",
        "steps": f"{run['steps']:,}",
        "minutes": f"{run['seconds'] / 60:.1f}",
        "machine": f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, {machine['device']},"
        f" torch {machine['torch']}",
    }


def figures(protocol: str, report: dict[str, Any]) -> list[str]:
    """A protocol's figures, each beside its floor."""
    rows = []
    for name, (title, factor) in SHOWN.items():
        made = report["metrics"][name]
        if isinstance(made, dict):
            real = {"mean": report["floor"][name], "std": report["floor_std"][name]}
            rows.append(
                {
                    "figure": title,
                    "of what it makes": told(scaled(made, factor)),
                    "floor: of real images": told(scaled(real, factor)),
                }
            )
    copied = report["memorisation"]
    rows.append(
        {
            "figure": "no nearer to a training image than that one's nearest fellow",
            "of what it makes": f"{copied['authenticity']:.2f}",
            "floor: of real images": f"{copied['authenticity_held_out']:.2f}",
        }
    )
    sampler = ", ".join(f"{name} {value}" for name, value in report["sampler"].items())
    counts = report["counts"]
    why = ", all there are," if counts["generated"] < PROTOCOLS[protocol].generated else ""
    compared = "{generated:,} generated and {floor:,} real training images{why} with {reference:,}"
    about = f"{report['about']}. Compared were {compared.format(**counts, why=why)}. Sampler: {sampler}."
    return [about, "", *table(rows), "", f"    {report['command']}"]


def scaled(figure: dict[str, Any], factor: float) -> dict[str, float | None]:
    """Mean and deviation in other units."""
    return {key: None if figure[key] is None else factor * figure[key] for key in ("mean", "std")}


def spikes(found: dict[str, Any]) -> list[str]:
    """How much it fires, and what an image costs."""
    rates = [f"{part} {rate:.3f}" for part, rate in found["firing_rate"].items()]
    energy = found.get("energy")
    cost = energy and (
        f"{energy['arithmetic_uj']:,.0f} uJ an image of arithmetic, {energy['memory_uj']:,.0f} uJ of memory accesses"
        " (45 nm figures, nothing reused)"
    )
    return [f"Mean firing rate: {', '.join(rates) or 'not measured'}.", "", f"Energy: {cost or 'not measured'}."]
