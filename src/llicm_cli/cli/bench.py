"""``llicm bench``: rate-distortion and rate-perception of this and other codecs, and a report of it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llicm_cli.cli import console
from llicm_cli.errors import UsageError, about
from llicm_cli.storage import make_folder, write_files
from llicm_cli.tasks import check_task

if TYPE_CHECKING:
    from llicm_cli.bench.measure import Plan

app = typer.Typer(
    no_args_is_help=True,
    help="Compare codecs: bits against fidelity (rd), and against what restoration makes of it (rp).",
)

Folder = Annotated[Path, typer.Argument(help="Folder of pictures.", show_default=False)]
Results = Annotated[
    Path,
    typer.Option("--output", "-o", help="Results file (JSON); if it exists, what is missing in it is done."),
]
Codecs = Annotated[
    list[str] | None, typer.Option("--codec", help="A codec, repeatable; default: all that are installed.")
]
Label = Annotated[
    str | None, typer.Option("--as", help="Name of a single codec in the results, if not its own.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Take so many pictures, spread evenly over the folder.")
]
MetricFiles = Annotated[
    Path | None,
    typer.Option(help="Folder with squeezenet11_features.safetensors and niqe_pris_params.npz, for these "
                 "two metrics."),
]  # fmt: skip
Extra = Annotated[list[str] | None, typer.Option("--metric", help="One more metric: pyiqa:NAME.")]
Head = Annotated[
    Path | None,
    typer.Option(help="Weights of the restoration head after every codec but llicm-rdo and llicm-rpo; "
                 "default: the installed one."),
]  # fmt: skip
Jobs = Annotated[int, typer.Option(min=1, max=64, help="Processes at work.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results on stdout too.")]


def _require_packages() -> None:
    for name in ("bjontegaard", "matplotlib", "skimage"):
        if find_spec(name) is None:
            raise UsageError(f"llicm bench needs the package {name}: install llicm[bench]")


def _measure(
    plan: Plan, output: Path, codecs: list[str] | None, label: str | None, jobs: int, numbers: bool
) -> None:
    from llicm_cli.bench.measure import measure

    with console.progress(f"bench {plan.kind}") as tick:
        results = measure(plan, output, codecs, label, jobs, tick)
    if numbers:
        console.show(json.dumps(results))


@app.command(no_args_is_help=True)
def rd(
    folder: Folder,
    output: Results,
    codec: Codecs = None,
    label: Label = None,
    limit: Limit = None,
    metric_files: MetricFiles = None,
    metric: Extra = None,
    jobs: Jobs = 2,
    numbers: AsJson = False,
) -> None:
    """Rate-distortion: code the clean pictures of a folder with every codec at every setting."""
    _require_packages()
    from llicm_cli.bench.measure import Plan
    from llicm_cli.bench.sets import PictureSet

    plan = Plan(PictureSet(folder, limit=limit), None, metric_files, tuple(metric or ()))
    _measure(plan, output, codec, label, jobs, numbers)


@app.command(no_args_is_help=True)
def rp(
    folder: Folder,
    output: Results,
    task: Annotated[str, typer.Option(help="What the pictures are restored from.")],
    codec: Codecs = None,
    label: Label = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32, help="Seed of the first picture's degradation.")] = 0,
    sigma: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=255, help="For denoise: Gaussian noise of this standard deviation (0..255)."
        ),
    ] = None,
    head: Head = None,
    metric_files: MetricFiles = None,
    metric: Extra = None,
    jobs: Jobs = 2,
    numbers: AsJson = False,
) -> None:
    """Rate-perception: code degraded pictures, restore what was decoded, compare with the ideal.

    A folder with input/ and gt/ holds real pairs; the pictures of any other are degraded with a fixed seed.
    Every codec is followed by the same restoration head; llicm-rdo and llicm-rpo by the installed one, as
    llicm decode --task does.
    """
    _require_packages()
    check_task(task)
    from llicm_cli.bench.measure import Plan
    from llicm_cli.bench.sets import PictureSet

    pictures = PictureSet(folder, task, sigma, seed, limit)
    plan = Plan(pictures, head, metric_files, tuple(metric or ()))
    _measure(plan, output, codec, label, jobs, numbers)


@app.command(no_args_is_help=True)
def report(
    results: Annotated[list[Path], typer.Argument(help="Results files.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.md and report.html, made if need be."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="The codec that is compared with all others; default: ours.")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="JSON file of published curves of the 24 Kodak pictures.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder that holds the sets by name: adds crops at equal rate.")
    ] = None,
    head: Head = None,
    numbers: Annotated[bool, typer.Option("--json", help="Print every BD-rate as JSON instead.")] = False,
) -> None:
    """BD-rates and curves of results files: as Markdown on stdout, or with a page of plots in a folder."""
    _require_packages()
    from llicm_cli.bench.report import as_json, check_tested, markdown, merge, page, published_curves

    sets = merge(results)
    check_tested(sets, test)
    curves = published_curves(published) if published else {}
    if numbers:
        console.show(json.dumps(as_json(sets, test, curves)))
    if output is None and numbers:
        return
    text = markdown(sets, test, curves)
    if output is None:
        console.show(text.rstrip())
        return
    make_folder(output)
    with console.progress("bench report") as tick:
        whole = page(sets, text, curves, pictures, head, tick)
    with about(output):
        files = {output / "report.md": text.encode(), output / "report.html": whole.encode()}
        write_files(files, overwrite=True)
