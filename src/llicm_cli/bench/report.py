"""From results files to a table and a page: who needs how many bits for the same quality."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llicm_cli.bench.codecs import OWN_HEAD, Codec, choose
from llicm_cli.bench.curves import FEWEST_PICTURES, BdRate, Points, bd_rate, bootstrapped, points, quality
from llicm_cli.bench.measure import decoded, encoded, json_file, load_results
from llicm_cli.bench.sets import PictureSet
from llicm_cli.errors import InputError, UsageError
from llicm_cli.models.weights import load_restorer
from llicm_cli.tasks import CLEAN

PUBLISHED_SET = {f"kodim{i:02d}" for i in range(1, 25)}  # names of the Kodak pictures
PUBLISHED_METRICS = {"psnr": "psnr_rgb", "ms_ssim": "ms_ssim_rgb"}
CROP = 192  # pixels a side
SEARCH = 6  # steps towards equal rate

Colour = tuple[float, float, float, float]  # red, green, blue, opacity in 0..1
Published = dict[str, dict[str, list[float]]]
"""Curves by name, each {"bpp": [...], "psnr_rgb": [...], "ms_ssim_rgb": [...]}."""


@dataclass
class SetResults:
    """All that was measured of one set, from one or several files.

    Attributes:
        incomplete: codecs that were not measured on every picture, and are left out.
    """

    kind: str
    name: str
    task: str
    inputs: str
    pictures: list[str]
    fingerprint: str
    metrics: dict[str, dict[str, str]]
    reference: dict[str, dict[str, dict[str, float | None]]]
    codecs: dict[str, dict[str, Any]]
    head: str | None
    incomplete: set[str]

    @property
    def title(self) -> str:
        """The set, and the task if it is one."""
        return self.name if self.kind == "rd" else f"{self.name} ({self.task})"

    @property
    def has_published(self) -> bool:
        """Whether published curves are of these pictures."""
        return self.kind == "rd" and {Path(name).stem.lower() for name in self.pictures} == PUBLISHED_SET

    def points(self, codec: str, metric: str) -> Points:
        """What was measured of a codec."""
        return points(self.codecs[codec], self.pictures, metric, self.metrics[metric]["better"])

    def reference_mean(self, kind: str, metric: str) -> float | None:
        """Mean over pictures of the input, or of the restored input, that was not coded."""
        values = [row.get(metric) for row in self.reference[kind].values()]
        return None if not values or None in values else float(np.mean(values))  # type: ignore[arg-type]


def merge(paths: list[Path]) -> list[SetResults]:
    """The sets in results files; those of the same set are put together.

    Raises:
        InputError: not a results file.
        UsageError: files of the same set that were not measured on the same pictures, with the same metrics
            and the same common head, or have different results of the same codec.
    """
    found: dict[tuple[str, ...], SetResults] = {}
    for path in paths:
        data = load_results(path)
        complete = {n: c for n, c in data["codecs"].items() if len(c["pictures"]) == len(data["pictures"])}
        new = SetResults(
            data["kind"], data["set"], data["task"], data["inputs"], data["pictures"], data["fingerprint"],
            data["metrics"], data["reference"], complete, data["head"], set(data["codecs"]) - set(complete),
        )  # fmt: skip
        key = (new.kind, new.name, new.task, new.inputs)
        old = found.setdefault(key, new)
        for name in ("pictures", "fingerprint", "metrics", "head"):
            if getattr(old, name) != getattr(new, name):
                raise UsageError(f"{path}: other {name} than in an earlier file of {new.title}")
        old.incomplete |= new.incomplete
        for name, entry in complete.items():
            if old.codecs.setdefault(name, entry) != entry:
                raise UsageError(f"{path}: {name} on {new.title} is in an earlier file too")
        old.incomplete -= set(old.codecs)
        for kind, rows in new.reference.items():
            old.reference[kind] |= rows
    return list(found.values())


def published_curves(path: Path) -> Published:
    """Curves of ``{"curves": {name: {"bpp": [...], "psnr_rgb": [...], "ms_ssim_rgb": [...]}}}``, means over
    the Kodak pictures; raises InputError."""
    try:
        curves = {
            name: {key: np.array(v, dtype=float).tolist() for key, v in c.items() if isinstance(v, list)}
            for name, c in json_file(path)["curves"].items()
        }
        if any({len(values) for values in c.values()} != {len(c["bpp"])} for c in curves.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a file of published curves") from error
    return curves


def _against(results: SetResults, anchor: str, test: str, metric: str) -> BdRate:
    if not {anchor, test} <= set(results.codecs) or metric not in results.metrics:
        return BdRate(reason="not measured")
    return bootstrapped(results.points(anchor, metric), results.points(test, metric))


def _against_published(results: SetResults, curve: dict[str, list[float]], test: str, metric: str) -> BdRate:
    key = PUBLISHED_METRICS.get(metric, "")
    if not results.has_published or test not in results.codecs:
        return BdRate(reason="other pictures")
    if not curve.get(key):
        return BdRate(reason="not published")
    axis = quality(np.array(curve[key]), metric, "higher")
    return bd_rate((np.array(curve["bpp"]), axis), results.points(test, metric).mean())


def _mean_over_tasks(sets: list[SetResults], rates: list[BdRate]) -> str:
    """Mean over tasks of the mean over a task's sets, and over how many tasks."""
    by_task: dict[str, list[float]] = {}
    for results, rate in zip(sets, rates, strict=True):
        if rate.value is not None:
            by_task.setdefault(results.task, []).append(rate.value)
    if not by_task:
        return "n/a"
    mean = np.mean([np.mean(values) for values in by_task.values()])
    return f"{mean:+.1f} ({len(by_task)} of {len({s.task for s in sets})} tasks)"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tested(sets: list[SetResults], kind: str, test: str | None) -> list[str]:
    """The codecs that are compared with all others: the one asked for, or ours."""
    ours = [test] if test else ["llicm"] if kind == "rd" else ["llicm-rpo", "llicm"]
    return [name for name in ours if any(name in s.codecs for s in sets)]


def check_tested(sets: list[SetResults], test: str | None) -> None:
    """Raise UsageError if the codec to compare with the others was not measured."""
    if test and not any(test in s.codecs for s in sets):
        there = sorted({codec for s in sets for codec in s.codecs})
        raise UsageError(f"{test!r} was not measured; there are {', '.join(there)}")


def as_json(sets: list[SetResults], test: str | None, published: Published) -> list[dict[str, Any]]:
    """Every BD-rate as {kind, set, task, metric, test, against, value, low, high, reason}."""
    found = []
    for results in sets:
        for name in tested([results], results.kind, test):
            for metric in results.metrics:
                rates = {a: _against(results, a, name, metric) for a in results.codecs if a != name}
                if results.kind == "rd":
                    for anchor, curve in published.items():
                        key = f"{anchor} (published)"
                        rates[key] = _against_published(results, curve, name, metric)
                about = {"kind": results.kind, "set": results.name, "task": results.task, "metric": metric}
                found += [about | {"test": name, "against": a} | asdict(rate) for a, rate in rates.items()]
    return found


def markdown(sets: list[SetResults], test: str | None, published: Published) -> str:
    """BD-rates of one codec against every other one, then all curves.

    Args:
        sets: of ``merge``.
        test: the codec to compare with the others; None for ours: ``llicm`` on clean pictures, else
            ``llicm-rpo`` and ``llicm``.
        published: curves to compare with on clean pictures.
    """
    parts = ["# Benchmark"]
    for kind, words in (
        ("rd", "Rate-distortion, clean pictures"),
        ("rp", "Rate-perception, restored pictures"),
    ):
        chosen = [s for s in sets if s.kind == kind]
        if not chosen:
            continue
        parts.append(f"## {words}")
        for name in tested(chosen, kind, test):
            parts += _comparison(chosen, name, published if kind == "rd" else {})
        parts.append("### What was measured")
        parts += [_curves(s) for s in chosen]
    return "\n\n".join(parts) + "\n"


def _comparison(sets: list[SetResults], test: str, published: Published) -> list[str]:
    """Tables of the BD-rates of one codec against all others, one a metric."""
    if all(set(s.codecs) <= {test} for s in sets) and not published:
        return [f"Only {test} was measured: there is nothing to compare it with."]
    anchors = list(dict.fromkeys(c for s in sets for c in s.codecs if c != test))
    metrics = {name: m for s in sets for name, m in s.metrics.items()}
    parts = [f"### BD-rate of {test} (%)"]
    parts.append(
        f"Negative: {test} needs so much less than the codec of the row for the same quality. In brackets "
        f"the interval that 95 % of redrawn picture sets give, of {FEWEST_PICTURES} pictures or more."
    )
    for metric, about in metrics.items():
        rows = []
        for anchor in anchors:
            rates = [_against(s, anchor, test, metric) for s in sets]
            mean = [_mean_over_tasks(sets, rates)] if len(sets) > 1 else []
            rows.append([anchor, *map(str, rates), *mean])
        for name, curve in published.items():
            rates = [_against_published(s, curve, test, metric) for s in sets]
            if any(r.value is not None for r in rates):
                rows.append([f"{name} (published)", *map(str, rates), *[""] * (len(sets) > 1)])
        if not rows:
            parts.append(f"{about['title']}: there is nothing to compare with.")
            continue
        if all("n/a" in cell for row in rows for cell in row[1:]):
            reasons = sorted({cell for row in rows for cell in row[1:]})
            parts.append(f"{about['title']}: {', '.join(reasons)}.")
            continue
        mean = ["mean over tasks"] if len(sets) > 1 else []
        parts.append(f"{about['title']} ({about['better']} is better; {about['range']})")
        parts.append(_table(["against", *(s.title for s in sets), *mean], rows))
    return parts


def _curves(results: SetResults) -> str:
    """All curves of a set as a table: bits a pixel, and PSNR."""
    rows = []
    for name, entry in results.codecs.items():
        rates, values = results.points(name, "psnr").mean()
        cells = " ".join(f"{r:.3f}/{v:.2f}" for r, v in zip(rates, values, strict=True))
        head = f", head {entry['head']}" if entry["head"] else ""
        rows.append([name, f"{entry['version']}{head}", cells])
    words = f"**{results.title}**, {len(results.pictures)} pictures, {results.inputs}"
    if results.incomplete:
        words += f"; not measured on all of them and left out: {', '.join(sorted(results.incomplete))}"
    if results.kind == "rp":
        before, after = (results.reference_mean(k, "psnr") for k in ("input", "restored"))
        if before is not None and after is not None:
            words += f"; PSNR of the input {before:.2f} dB, restored without coding {after:.2f} dB"
    return f"{words}\n\n{_table(['codec', 'version', 'bpp/PSNR'], rows)}"


def _plot(results: SetResults, metric: str, published: Published, colours: dict[str, Colour]) -> str:
    """Curves of a set as an SVG picture, each in the colour of its name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in results.codecs:
        measured = results.points(name, metric)
        ours = name.startswith("llicm")
        rates, values = measured.bpp.mean(0), measured.values.mean(0)
        marker, width = ("o", 2.5) if ours else (".", 1)
        axes.plot(rates, values, marker=marker, lw=width, color=colours[name], label=name)
    for name, curve in published.items():
        if curve.get(PUBLISHED_METRICS.get(metric, "")):
            key = PUBLISHED_METRICS[metric]
            label = f"{name} (published)"
            axes.plot(curve["bpp"], curve[key], color=colours[name], lw=0.8, ls=":", label=label)
    after = results.reference_mean("restored", metric)
    if after is not None:
        axes.axhline(after, lw=0.8, ls="--", color="grey", label="restored, not coded")
    about = results.metrics[metric]
    axes.set(xlabel="bits a pixel", ylabel=f"{about['title']}, {about['better']} is better", xlim=(0, 2))
    axes.set_title(results.title)
    axes.grid(alpha=0.3)
    figure.legend(fontsize="x-small", loc="outside right upper")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _nearest(codec: Codec, encode: Callable[[float], bytes], wanted: float) -> bytes:
    """The file whose size is nearest to ``wanted`` bytes, by bisection between settings."""
    if not codec.between:
        files = [encode(setting) for setting in codec.settings]
    else:
        low, high = codec.settings[0], codec.settings[-1]
        files = [encode(setting) for setting in (low, high)]
        for _ in range(SEARCH):
            middle = float(np.sqrt(low * high)) if 0 < low < high < 1 else (low + high) / 2
            files.append(encode(middle))
            low, high = (middle, high) if len(files[-1]) < wanted else (low, middle)
    return min(files, key=lambda data: abs(len(data) / wanted - 1))


def _crop_box(picture: Image.Image) -> tuple[int, int, int, int]:
    left, top = max(0, (picture.width - CROP) // 2), max(0, (picture.height - CROP) // 2)
    return left, top, min(left + CROP, picture.width), min(top + CROP, picture.height)


def _img(picture: Image.Image, words: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    words = html.escape(words)
    return f'<figure><img src="{url}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _crops(results: SetResults, folder: Path, head: Path | None) -> str:
    """The middle of one picture of a set from every codec that is installed in the version and with the head
    that were measured, at equal rate: that of our own codec at the middle of its settings."""
    sigma = results.inputs.partition("sigma ")[2].partition(",")[0]
    seed = results.inputs.rpartition(" ")[2].removesuffix("+i")
    pictures = PictureSet(
        folder, results.task, float(sigma) if sigma else None, int(seed) if seed.isdigit() else 0
    )
    path = next((p for p in pictures.paths if p.name == results.pictures[0]), None)
    if path is None:
        raise InputError(f"{folder} has no picture {results.pictures[0]}")
    picture, truth = pictures.pair(path)
    box = _crop_box(picture)
    network = None if results.task == CLEAN else load_restorer(head)
    shown = [_img(picture.crop(box), "input")]
    codecs = choose(None)
    common, own = (None, None) if results.kind == "rd" else (load_restorer(head).id, load_restorer().id)
    present = {
        name: entry
        for name, entry in results.codecs.items()
        if entry["codec"] in codecs
        and entry["version"] == codecs[entry["codec"]].version()
        and entry["head"] == (own if entry["codec"] in OWN_HEAD else common)
    }
    ours = next((n for n in ("llicm-rpo", "llicm") if n in present), next(iter(present), None))
    if ours is not None:
        entry = present[ours]
        rates = entry["pictures"][path.name]["bpp"]
        wanted = rates[len(rates) // 2] * picture.width * picture.height / 8
        for name, entry in present.items():
            codec = codecs[entry["codec"]]
            encode = partial(encoded, entry["codec"], codec, picture, task=results.task, head=network)
            data = _nearest(codec, encode, wanted)
            restored = decoded(entry["codec"], codec, data, results.task, network)
            bpp = 8 * len(data) / (picture.width * picture.height)
            shown.append(_img(restored.crop(box), f"{name}, {bpp:.3f} bpp"))
    shown.append(_img(truth.crop(box), "ideal"))
    return f'<div class="row">{"".join(shown)}</div>'


STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse }
td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: left }
figure { margin: 0 }
figcaption { font-size: .8em }
img { image-rendering: pixelated }
.row { display: flex; flex-wrap: wrap; gap: .5em }
.scroll { overflow-x: auto }
"""


def _as_html(text: str) -> str:
    """The little Markdown of ``markdown`` as HTML: headings, tables, paragraphs."""
    parts = []
    for block in text.strip().split("\n\n"):
        if block.startswith("#"):
            level = len(block) - len(block.lstrip("#"))
            parts.append(f"<h{level}>{html.escape(block[level + 1 :])}</h{level}>")
        elif block.startswith("|"):
            lines = [line.strip("| ").split(" | ") for line in block.splitlines()]
            rows = [
                "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in line) + "</tr>"
                for tag, line in zip(["th", *["td"] * len(lines)], [lines[0], *lines[2:]], strict=False)
            ]
            parts.append(f'<div class="scroll"><table>{"".join(rows)}</table></div>')
        else:
            parts.append(f"<p>{html.escape(block.replace('**', ''))}</p>")
    return "\n".join(parts)


def page(
    sets: list[SetResults],
    text: str,
    published: Published,
    root: Path | None,
    head: Path | None,
    tick: Callable[[float, str], None],
) -> str:
    """A self-contained page: the tables, curves of every metric, and crops if the pictures are at hand.

    Args:
        sets: of ``merge``.
        text: of ``markdown``.
        published: curves to draw on clean pictures.
        root: folder that holds the sets by name; None for no crops.
        head: weights of the common head; None for the installed one.
        tick: told the done share and a few words.
    """
    from matplotlib import colormaps

    names = dict.fromkeys([name for results in sets for name in results.codecs] + list(published))
    order = *range(0, 20, 2), *range(1, 20, 2)  # of matplotlib's twenty every other one is pale
    colours = dict(zip(names, cycle([colormaps["tab20"](i) for i in order]), strict=False))
    parts = []
    for i, results in enumerate(sets):
        tick(i / len(sets), results.title)
        parts.append(f"<h2>{html.escape(results.title)}</h2>")
        if root is not None and (root / results.name).is_dir():
            parts.append(_crops(results, root / results.name, head))
        lines = published if results.has_published else {}
        parts += [_plot(results, metric, lines, colours) for metric in results.metrics]
    title = "<meta charset=utf-8><title>llicm bench</title>"
    body = _as_html(text) + "\n" + "\n".join(parts)
    return f"<!doctype html><html lang=en>{title}<style>{STYLE}</style><body>{body}</body></html>\n"
