"""Measure codecs on a picture set; one results file a set, written after every picture.

A results file is JSON:

    llicm_bench   1, the version of this layout
    kind          "rd", clean pictures coded; "rp", degraded ones coded and restored
    set, task     names; the task of "rd" is "clean"
    inputs        how the inputs came about, in words
    pictures      names in order
    fingerprint   of the first input and its truth, pixel by pixel, and of the files of metrics
    metrics       {name: {title, better, range}}
    head          "rp" only: id of the restoration head after every codec that has none of its own
    reference     "rp" only, {"input" or "restored": {picture: {metric: value}}}: nothing coded
    codecs        {name: {codec, version, head, settings, pictures: {picture: {bpp: [...], metric: [...]}}}}

with values in the order of the settings. Measuring again with the same file does what is missing.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llicm_cli import pipeline
from llicm_cli.bench.codecs import OWN_HEAD, RESTORED_FIRST, RPO, Codec, choose, known
from llicm_cli.bench.metrics import Measure, describe, meters, metric_files
from llicm_cli.bench.sets import PictureSet
from llicm_cli.errors import InputError, LlicmError, UsageError, about
from llicm_cli.models.restorer import Restorer
from llicm_cli.models.weights import load_restorer
from llicm_cli.storage import check_output, read_bytes, write_file
from llicm_cli.tasks import CLEAN

LAYOUT = 1
# What results must share to be compared:
IDENTITY = ("kind", "set", "task", "inputs", "pictures", "fingerprint", "head", "metrics")
REFERENCE = "reference"  # stands for a codec in the work to do


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        pictures: the set; with task ``clean`` this is rate-distortion, else rate-perception.
        head: weights of the restoration head after every codec that has none of its own; None for the
            installed one.
        metric_files: see ``metrics.meters``.
        extra: see ``metrics.meters``.
    """

    pictures: PictureSet
    head: Path | None = None
    metric_files: Path | None = None
    extra: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "rd" or "rp"."""
        return "rd" if self.pictures.task == CLEAN else "rp"

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change where other pictures, degradations or metric files have the
        same names; raises LlicmError."""
        digest = hashlib.sha256()
        for picture in self.pictures.pair(self.pictures.paths[0]):
            digest.update(np.asarray(picture).tobytes())
        for file in metric_files(self.metric_files).values():
            digest.update(read_bytes(file))
        return digest.hexdigest()[:8]


def json_file(path: Path) -> Any:
    """What a JSON file holds; raises InputError."""
    with about(path):
        try:
            return json.loads(read_bytes(path))
        except ValueError as error:
            raise InputError("not JSON") from error


def load_results(path: Path) -> dict[str, Any]:
    """A results file; raises InputError."""
    results = json_file(path)
    if not isinstance(results, dict) or "llicm_bench" not in results:
        raise InputError(f"{path}: no results of llicm bench")
    whole = all(key in results for key in IDENTITY)
    whole = whole and all(isinstance(results.get(key), dict) for key in ("reference", "codecs"))
    whole = whole and all("pictures" in codec for codec in results["codecs"].values())
    if results["llicm_bench"] != LAYOUT or not whole:
        raise InputError(f"{path}: results of another version of this program")
    return results


def store_results(path: Path, results: dict[str, Any]) -> None:
    """Write a results file, whole or not at all: one line a picture; raises OutputError."""
    with about(path):
        write_file(path, (_text(results) + "\n").encode(), overwrite=True)


def _text(value: Any, depth: int = 1) -> str:
    """JSON with a line for every innermost object."""
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        lines = (f"{' ' * depth}{json.dumps(k)}: {_text(v, depth + 1)}" for k, v in value.items())
        return "{\n" + ",\n".join(lines) + "\n" + " " * (depth - 1) + "}"
    return json.dumps(value)


class _Work:
    """What a worker process knows: the plan, and what measuring needs, loaded once."""

    def __init__(self, plan: Plan, threads: int) -> None:
        torch.set_num_threads(threads)
        self.plan = plan
        self.meters: dict[str, Measure] = meters(plan.metric_files, plan.extra)
        self.codecs = known()
        self.head = None if plan.kind == "rd" else load_restorer(plan.head)

    def scores(self, picture: Image.Image, truth: Image.Image) -> dict[str, float | None]:
        """All metrics of a picture."""
        values = {name: measure(picture, truth) for name, measure in self.meters.items()}
        return {name: None if v is None else round(v, 5) for name, v in values.items()}

    def reference(self, path: Path) -> dict[str, dict[str, float | None]]:
        """Of the input as it is, and restored without coding."""
        picture, truth = self.plan.pictures.pair(path)
        restored = pipeline.enhance(picture, self.plan.pictures.task, head=self.head)
        return {"input": self.scores(picture, truth), "restored": self.scores(restored, truth)}

    def curve(self, name: str, path: Path) -> dict[str, list[float | None]]:
        """bpp and all metrics of a picture at every setting of a codec."""
        picture, truth = self.plan.pictures.pair(path)
        found: dict[str, list[float | None]] = {}
        codec, task = self.codecs[name], self.plan.pictures.task
        for setting in codec.settings:
            data = encoded(name, codec, picture, setting, task, self.head)
            shown = decoded(name, codec, data, task, self.head)
            bpp = round(8 * len(data) / (picture.width * picture.height), 5)
            for key, value in {"bpp": bpp, **self.scores(shown, truth)}.items():
                found.setdefault(key, []).append(value)
        return found


def encoded(
    name: str, codec: Codec, picture: Image.Image, setting: float, task: str, head: Restorer | None
) -> bytes:
    """A picture as a file of a codec, restored first if that is its way (``llicm-rpo`` is told the task)."""
    encode: Callable[..., bytes] = codec.encode
    if name == RPO:
        return encode(picture, setting, task=task)
    if name == RESTORED_FIRST:
        picture = pipeline.enhance(picture, task, head=head)
    return encode(picture, setting)


def decoded(name: str, codec: Codec, data: bytes, task: str, head: Restorer | None) -> Image.Image:
    """A file decoded, and restored unless the task is ``clean``: by its own head, or by the common one, which
    is told nothing of the codec."""
    if task == CLEAN or name == RESTORED_FIRST:
        return codec.decode(data)
    if name in OWN_HEAD:
        return pipeline.decode(data, task)
    return pipeline.enhance(codec.decode(data), task, head=head)


_work: _Work | None = None


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _start(plan: Plan, threads: int) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives out work
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _work = _Work(plan, threads)


def _do(name: str, path: Path) -> Any:
    assert _work is not None
    try:
        return _work.reference(path) if name == REFERENCE else _work.curve(name, path)
    except LlicmError as error:
        raise type(error)(f"{name} on {path.name}: {error}") from error
    except Exception as error:  # of any codec or metric
        raise InputError(f"{name} on {path.name}: {str(error) or type(error).__name__}") from error


def _begin(
    plan: Plan, output: Path, names: list[str] | None, label: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The results so far, made ready for these codecs; and {name in the results: codec}.

    Raises:
        UsageError: the file is of another set, task, head or choice of pictures, a codec is not there or was
            another version when the file was begun.
    """
    chosen = choose(names)
    for name in (*OWN_HEAD, RESTORED_FIRST):
        if plan.kind == "rd" and name in chosen:
            if names:
                raise UsageError(f"{name} is for llicm bench rp")
            del chosen[name]
    if label and (len(chosen) != 1 or label == REFERENCE):
        raise UsageError(f"--as goes with one --codec, and is not {REFERENCE}")
    labels = {label or name: name for name in chosen}
    described = {name: asdict(describe(name)) for name in meters(plan.metric_files, plan.extra)}
    results: dict[str, Any] = {
        "llicm_bench": LAYOUT,
        "kind": plan.kind,
        "set": plan.pictures.folder.resolve().name,
        "task": plan.pictures.task,
        "inputs": plan.pictures.source,
        "head": None if plan.kind == "rd" else load_restorer(plan.head).id,
        "pictures": [path.name for path in plan.pictures.paths],
        "fingerprint": plan.fingerprint,
        "metrics": described,
        "reference": {"input": {}, "restored": {}},
        "codecs": {},
    }
    if output.exists():
        before = load_results(output)
        for key in IDENTITY:
            if before[key] != results[key]:
                raise UsageError(f"{output} holds results of another {key}; name another file")
        results = before
    for shown, name in labels.items():
        entry = {
            "codec": name,
            "version": chosen[name].version(),
            "head": load_restorer().id if name in OWN_HEAD else results["head"],
            "settings": list(chosen[name].settings),
        }
        old = results["codecs"].setdefault(shown, entry | {"pictures": {}})
        for key, value in entry.items():
            if old[key] != value:
                raise UsageError(f"{output} has {shown} with another {key}; name another file, or use --as")
    return results, labels


def measure(
    plan: Plan,
    output: Path,
    names: list[str] | None,
    label: str | None,
    jobs: int,
    tick: Callable[[float, str], None],
) -> dict[str, Any]:
    """Measure what is missing in a results file, and write it after every picture. A codec that fails on one
    does not stop the others.

    Args:
        plan: what to measure.
        output: the results file; made if need be.
        names: of codecs, None for all that are installed.
        label: name of a single codec in the results, if not its own.
        jobs: processes at work.
        tick: told the done share and what was done last.

    Returns:
        The results.

    Raises:
        UsageError: a file of another set, an unknown codec or metric.
        InputError, ModelError, OutputError: as reading pictures, weights, and writing do; the first of them,
            and how many more there were, once all is done.
    """
    with about(output):
        check_output(output, overwrite=True)
    results, labels = _begin(plan, output, names, label)
    done = {shown: results["codecs"][shown]["pictures"] for shown in labels}
    if plan.kind == "rp":
        done = {REFERENCE: results["reference"]["restored"]} | done
    todo = [(shown, p) for shown, rows in done.items() for p in plan.pictures.paths if p.name not in rows]
    if not todo:
        return results
    jobs = min(jobs, len(todo))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start, initargs=(plan, threads)
    )
    failures: list[BaseException] = []
    with pool:
        try:
            waiting: dict[Future[Any], tuple[str, Path]] = {
                pool.submit(_do, labels.get(shown, shown), p): (shown, p) for shown, p in todo
            }
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    shown, path = waiting.pop(future)
                    if failure := future.exception():
                        failures.append(failure)
                        continue
                    found = future.result()
                    if shown == REFERENCE:
                        for kind, values in found.items():
                            results["reference"][kind][path.name] = values
                    else:
                        done[shown][path.name] = found
                    tick(1 - len(waiting) / len(todo), f"{shown} {path.name}")
                store_results(output, results)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    if failures:
        first, more = failures[0], len(failures) - 1
        raise type(first)(f"{first}; {more} more failed") if more else first
    return results
