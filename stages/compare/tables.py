"""Comparison tables: one row a system, from the reports of evaluation and inspection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiking_vq.config.schema import TWINS
from spiking_vq.data.datasets import TITLES
from spiking_vq.data.own import is_own_name
from spiking_vq.errors import InputError
from stages.compare.published import PUBLISHED
from stages.reporting.report import Report, evaluation_name, inspected

NOT_RUN = "not run"
PRESETS = (
    *("base", "large", "unconditional", "base-relu", "base-quantised", "paper"),
    *("gaussian-base", "gaussian-sddpm", "gaussian-fsddim"),
)
COMPARED = ("test-10k", "n1280-test", "fsddim-10k", "train-50k")
UNLABELLED = evaluation_name({"protocol": "{}", "only": "samples", "guidance": 0.0}).removesuffix(".json")
"""Name of the report on images that were generated without labels; `{}` stands for the protocol."""
OTHER = "FID under other protocols"
"""Column of published FIDs that compare with none of ours."""
QUALITY = (
    "system",
    *(f"FID {name}" for name in COMPARED),
    OTHER,
    "protocol of what follows",
    "KID x 1000",
    "classifier distance",
    "precision / recall",
    "bits / image",
    "reconstruction MSE",
    "reconstruction FID",
)
COST = ("T", "calls", "parameters", "firing rate", "uJ / image", "with memory", "images / s")
COLUMNS = QUALITY + COST


def title_of(data: str) -> str:
    """Name of a data set in documents; of an own data set its name."""
    return TITLES.get(data, data)


@dataclass(frozen=True)
class System:
    """All reports on one data set and preset.

    Attributes:
        data, preset: which.
        folder: of the reports.
        evaluations: protocol -> its report.
        unlabelled: protocol -> its report on images of the same weights without labels.
        energy: the energy of an image; None where it was not measured.
    """

    data: str
    preset: str
    folder: Path
    evaluations: dict[str, Report]
    unlabelled: dict[str, Report]
    energy: Report | None

    @property
    def headline(self) -> Report:
        """The report of the first protocol that was run, from which metrics other than FID are taken."""
        return next(self.evaluations[name] for name in COMPARED if name in self.evaluations)

    @property
    def stand_in(self) -> str:
        """Sentence on a data set whose files are not the official ones; empty otherwise."""
        text = self.headline.get(str, "stand_in", default="")
        return f"{title_of(self.data)} here is {text}." if text else ""

    @property
    def images_per_second(self) -> float | None:
        """The fastest of the protocols' runs, as noise only slows; of those sampled as the headline was."""
        head = self.headline
        alike = [
            report.get(float, "images_per_second", default=0.0)  # 0 where only existing images were measured
            for report in self.evaluations.values()
            if all(
                report.get(object, *keys, default=None) == head.get(object, *keys, default=None)
                for keys in (("sampler",), ("machine", "device"))
            )
        ]
        return max(alike) or None

    def firing_rates(self) -> dict[str, dict[str, float]]:
        """Stage -> layer -> firing rate, and of all its neurons as `all`; empty for networks without spikes."""
        return self.headline.get(dict, "firing_rate", default={})


def data_sets(systems: Sequence[System]) -> list[str]:
    """The data sets of tables: those in `TITLES`, measured or not, then own ones that were."""
    return list(dict.fromkeys([*TITLES, *(system.data for system in systems)]))


def read_systems(results: Path) -> list[System]:
    """All data sets and presets that were evaluated, in the order of `TITLES`; own data sets follow.

    Raises:
        InputError: there is none, or a report cannot be read.
    """
    systems = []
    own = sorted(path.name for path in results.glob("*") if is_own_name(path.name))
    for data in (*TITLES, *own):
        for folder in sorted(path for path in (results / data).glob("*") if path.is_dir()):
            evaluations, unlabelled = (read_evaluations(folder, form) for form in ("{}", UNLABELLED))
            if evaluations:
                energy = inspected(folder, "energy")
                systems.append(System(data, folder.name, folder, evaluations, unlabelled, energy))
    if not systems:
        raise InputError(f"no reports in {results}: make some with `spiking-vq evaluate` or `spiking-vq study grid`")
    return systems


def read_evaluations(folder: Path, form: str, protocols: Iterable[str] = COMPARED) -> dict[str, Report]:
    """Protocol -> its report, of those that were run; `form` is the reports' name, with `{}` for the protocol."""
    files = {protocol: folder / f"{form.format(protocol)}.json" for protocol in protocols}
    return {protocol: Report.read(path) for protocol, path in files.items() if path.is_file()}


def system_table(data: str, systems: Sequence[System], presets: Sequence[str] = PRESETS) -> list[dict[str, str]]:
    """The rows of one data set: the presets, run or not, then published figures."""
    known = {system.preset: system for system in systems if system.data == data}
    rows = []
    for preset in presets:
        rows.append(system_row(preset, known))
        if preset in known and known[preset].unlabelled:
            rows.append(unlabelled_row(known[preset]))
    for published in PUBLISHED:
        if data in published.fid:
            column = f"FID {published.protocol}" if published.protocol else OTHER
            row = {"system": published.system, column: f"{published.fid[data]:g}"}
            rows.append(dict.fromkeys(COLUMNS, "") | row)
    return rows


def with_best(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """A table with the lowest FID under each protocol between `**`."""
    marked = [dict(row) for row in rows]
    for column in (f"FID {name}" for name in COMPARED):
        measured = [row for row in marked if row[column] not in (NOT_RUN, "")]
        if measured:
            best = min(measured, key=lambda row: float(row[column].split()[0]))
            best[column] = f"**{best[column]}**"
    return marked


def split(rows: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """A table as two that fit a page: quality, and the cost of the rows that have any."""
    yield [{name: row[name] for name in QUALITY} for row in rows]
    costly = [row for row in rows if {row[name] for name in COST} - {NOT_RUN, ""}]
    if costly:
        yield [{name: row[name] for name in ("system", *COST)} for row in costly]


def system_row(preset: str, known: dict[str, System]) -> dict[str, str]:
    """One of our presets; what was not run says so."""
    row = dict.fromkeys(COLUMNS, NOT_RUN) | {"system": f"ours, {preset}", OTHER: ""}
    if energy := image_energy(preset, known):
        row["uJ / image"], row["with memory"] = (shown(value) for value in microjoules(energy))
    if preset not in known:
        return row
    system = known[preset]
    head = system.headline
    for name, report in system.evaluations.items():
        row[f"FID {name}"] = beside_floor(report, "fid")
    if head.get(float, "sampler", "guidance", default=0.0):
        row["system"] += ", class-conditional"
    steps, parameters = head.get(dict, "T", default={}), head.get(dict, "parameters", default={})
    return (
        row
        | sample_metrics(head)
        | {
            "bits / image": shown(head.get(float, "likelihood", "bits_per_image", default=None)),
            "reconstruction MSE": shown(head.get(float, "stage1", "mse", default=None)),
            "reconstruction FID": shown(head.get(float, "reconstruction", "fid", default=None)),
            "T": " + ".join(map(str, steps.values())),
            "calls": shown(head.get(int, "network_calls", default=None)),
            "parameters": f"{sum(parameters.values()):,}" if parameters else "",
            "firing rate": " + ".join(f"{rates['all']:.2f}" for rates in system.firing_rates().values()),
            "images / s": shown(system.images_per_second),
        }
    )


def unlabelled_row(system: System) -> dict[str, str]:
    """A preset's weights, sampled without labels."""
    head = next(iter(system.unlabelled.values()))
    row = dict.fromkeys(COLUMNS, "") | dict.fromkeys((f"FID {name}" for name in COMPARED), NOT_RUN)
    row |= {f"FID {name}": beside_floor(report, "fid") for name, report in system.unlabelled.items()}
    return row | {"system": f"ours, {system.preset}, without labels"} | sample_metrics(head)


def sample_metrics(report: Report) -> dict[str, str]:
    """What a report tells of the images, but for their FID."""
    shares = (f"{report.get(float, 'metrics', name, 'mean'):.2f}" for name in ("precision", "recall"))
    return {
        "protocol of what follows": report.get(str, "protocol"),
        "KID x 1000": beside_floor(report, "kid", 1000),
        "classifier distance": beside_floor(report, "classifier_distance"),
        "precision / recall": " / ".join(shares),
    }


def image_energy(preset: str, known: dict[str, System]) -> Report | None:
    """The energy of an image; that of a twin stands in the report on the network whose twin it is."""
    base, _, neuron = preset.rpartition("-")
    name, side = (base, neuron) if neuron in TWINS else (preset, "spiking")
    energy = known[name].energy if name in known else None
    return energy and energy.part(side, "image")


def microjoules(energy: Report) -> tuple[float, float]:
    """Energy of an image: of the arithmetic alone, and with memory accesses."""
    arithmetic, memory = (energy.get(float, kind) / 1e6 for kind in ("arithmetic_pj", "memory_pj"))
    return arithmetic, arithmetic + memory


def beside_floor(report: Report, name: str, scale: float = 1.0) -> str:
    """A metric with its deviation over the seeds, and in brackets its floor."""
    metric = report.spread("metrics", name)
    if metric.mean is None:
        return "not available"
    return f"{metric.scaled(scale).text(std='.1g')} ({scale * report.get(float, 'floor', name):.2g})"


def shown(value: float | None) -> str:
    """A number, or nothing."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
