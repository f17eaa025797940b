"""Compare designs of codes at equal training time: which one is best after one core-hour, and which after three?

`configs/studies/scaling.yaml` lists the designs. Each is trained for each of its budgets, stage 1 and stage 2 on it;
samples and reconstructions are compared with the validation images. The measured time of both trainings stands next to
the budget; the classifier of the perceptual loss, which all share, is not counted. The same command resumes. Writes
`<results>/<data>/scaling.json`, `.md` and `.png`: classifier distance, recall and FID against core-hours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from spiking_vq.errors import InputError, require
from spiking_vq.fields import OneOf
from stages.cli.data import DataName
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import read_numbers, read_options, recorded_command
from stages.evaluate.options import NETWORKS
from stages.reporting.markdown import cells, table
from stages.reporting.report import claim_report, write_report, write_text
from stages.study.charts import quality_by_core_hours, require_matplotlib
from stages.study.options import TrainingOptions, number_of_seeds
from stages.study.runner import STUDIES, Chain, Names, Study, folder_name, run, trained
from stages.study.steps import perceptual_step

EXAMPLE = 'spiking-vq study scaling only="vq product" budgets=1'


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Options of the comparison.

    Attributes:
        only: names of designs; empty (default) for all.
        budgets: core-hours for both stages, of those listed; empty (default) for all.
        features: `all` measures FID, precision and recall too, with the Inception.
    """

    data: DataName = "cifar10"
    seeds: Annotated[int, number_of_seeds(1)] = 1
    only: str = ""
    budgets: str = ""
    features: Annotated[str, OneOf(NETWORKS)] = "all"


@dataclass(frozen=True)
class Design:
    """A design of codes, as `scaling.yaml` lists it.

    Attributes:
        steps: budget in core-hours -> training steps of stage 1 and of stage 2.
        vq_svae: overrides of stage 1; None (default) for none.
        absorbing: overrides of stage 2; None (default) for none.

    Raises:
        InputError: a value is of another form.
    """

    steps: dict[float, list[int]]
    vq_svae: str | None = None
    absorbing: str | None = None

    def __post_init__(self) -> None:
        """Check the values' forms."""
        texts = all(isinstance(text, str | None) for text in (self.vq_svae, self.absorbing))
        require(texts, "vq_svae and absorbing", "text with overrides", [self.vq_svae, self.absorbing])
        pairs = isinstance(self.steps, dict) and all(
            isinstance(budget, int | float) and isinstance(pair, list) and [*map(type, pair)] == [int, int]
            for budget, pair in self.steps.items()
        )
        require(pairs, "steps", "core-hours, each with the steps of both stages", self.steps)

    def changes(self, budget: float) -> dict[str, list[str]]:
        """Stage -> its overrides with a budget; validated at the end alone."""
        return {
            stage: [*(text or "").split(), f"train.max_steps={steps}", f"train.val_every={steps}"]
            for stage, text, steps in zip(
                ("vq_svae", "absorbing"), (self.vq_svae, self.absorbing), self.steps[budget], strict=True
            )
        }


def main(arguments: list[str]) -> None:
    """Train and measure all designs that are not done, and write table and chart."""
    options = read_options(Options, arguments)
    check_device(options.device)
    require_matplotlib()
    study = replace(Study.read("scaling"), vary={"design": {}, "budget": {}})
    designs, columns, root = read_designs(study), study.columns(options.features), options.runs / "scaling"
    variants, perceptual = chosen(designs, options), perceptual_step(options.data, options)

    def chain(names: Names, budget: float, seed: int) -> Chain:
        changes = designs[names[0]].changes(budget)
        described = [f"{stage} {' '.join(texts)}" for stage, texts in changes.items()]
        changes["vq_svae"].append(f"perceptual.classifier={perceptual.leaves}")
        runs = root / folder_name("-".join(names), described, options.precision, seed)
        return trained(changes, options, "base", seed, runs, protocol="val", features=options.features)

    out = options.results / options.data / "scaling.json"
    claim_report(out, data=options.data)
    rows = run(study, variants, chain, columns, options, root / "logs", [perceptual])
    report = {
        "command": recorded_command("study scaling", arguments),
        **{name: getattr(options, name) for name in ("data", "seeds", "precision")},
        "about": "base with the overrides of each design; distances are to the validation images",
        "machine": describe_machine(options.device),
        "designs": {name: asdict(designs[name]) for name in dict.fromkeys(row["design"] for row in rows)},
        "rows": [
            {"design": name, "budget": budget, "steps": designs[name].steps[budget]}
            | {column: row[column] for column in columns}
            for ((name, _), budget), row in zip(variants.items(), rows, strict=True)
        ],
    }
    write_report(out, report)
    write_text(out.with_suffix(".md"), markdown(report))
    quality_by_core_hours(report, out.with_suffix(".png"))
    print("\n" + markdown(report))


def read_designs(study: Study) -> dict[str, Design]:
    """The designs that a study lists.

    Raises:
        InputError: something else is listed; the message names the design.
    """
    designs = {}
    for name, values in study.designs.items():
        try:
            designs[name] = Design(**values)
        except (TypeError, InputError) as error:
            raise InputError(f"{STUDIES / 'scaling.yaml'}: {name}: {error}") from error
    return designs


def chosen(designs: dict[str, Design], options: Options) -> dict[Names, float]:
    """Names of the variants that the options choose -> their budget in core-hours, shortest first.

    Raises:
        InputError: they choose none, or other designs and budgets than those listed.
    """
    only, budgets = options.only.split(), read_numbers("budgets", options.budgets, "1 3")
    listed = sorted({budget for design in designs.values() for budget in design.steps})
    require(set(only) <= designs.keys(), "only", f"of {', '.join(designs)}", options.only)
    require(set(budgets) <= set(listed), "budgets", f"of {' '.join(f'{hours:g}' for hours in listed)}", options.budgets)
    variants = {
        (name, f"{budget:g}"): budget
        for budget in budgets or listed
        for name in only or designs
        if budget in designs[name].steps
    }
    asked = f"only={options.only!r} budgets={options.budgets!r}"
    require(variants != {}, "only and budgets", "a design with one of its budgets", asked)
    return variants


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [cells(row | {"steps": " + ".join(f"{steps:,}" for steps in row["steps"])}) for row in report["rows"]]
    about = (
        "{about}. Budgets are in core-hours, steps those of stage 1 and stage 2; mean ± standard deviation over {seeds}"
        " seeds, {precision}."
    ).format(**report)
    lines = [f"# {report['data']}: designs of codes at equal training time", "", about[0].upper() + about[1:], ""]
    lines += [*table(rows), "", *table([_changes(name, each) for name, each in report["designs"].items()])]
    return "\n".join(lines) + "\n"


def _changes(name: str, design: dict[str, Any]) -> dict[str, str]:
    """A row of the table of designs."""
    texts = {"stage 1": design["vq_svae"], "stage 2": design["absorbing"]}
    return {"design": name} | {stage: f"`{text}`" if text else "" for stage, text in texts.items()}
