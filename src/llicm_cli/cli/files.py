"""What commands on files share: many inputs, derived output names, ``-``, and errors file by file."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from llicm_cli.bitstream import MAX_PIXELS
from llicm_cli.cli import console
from llicm_cli.errors import InputError, LlicmError, OutputError, UsageError
from llicm_cli.image_io import INFO, PICTURE_FORMATS, picture_bytes, read_image
from llicm_cli.storage import check_output, make_folder, read_bytes, remove_unfinished, write_file
from llicm_cli.tasks import MOST_PASSES, TASKS, parse_tasks

STANDARD = Path("-")
Failure = tuple[Path, int]  # an input, and the exit code it asks for

Inputs = Annotated[list[Path], typer.Argument(help="Input files; - is standard input.", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", show_default=False, metavar="FILE|FOLDER/|-",
        help="Output file; or a folder, existing or ending in /; or - for standard output. "
        "Without it, outputs lie beside their inputs; that of standard input goes to standard output.",
    ),
]  # fmt: skip
Task = Annotated[
    str,
    typer.Option(
        metavar="TASK[,TASK...]",
        help=f"What to undo, one after the other: {', '.join(TASKS)}; "
        "auto: what the guide is sure to see; none.",
    ),
]
Strength = Annotated[float, typer.Option(min=0, max=1, help="How much of the restoration to take.")]
Passes = Annotated[
    int,
    typer.Option(min=1, max=MOST_PASSES,
                 help="How often to restore, each time on a moved grid, to take the mean: 2 passes take "
                 "twice as long, win 0.2 to 0.3 dB against noise, light rain, snow, drops, JPEG blocks and "
                 "holes, and lose 0.2 dB on noise in grey and on heavy rain."),
]  # fmt: skip
Strip = Annotated[
    bool, typer.Option("--strip", help="Drop metadata (ICC profile, EXIF, XMP) instead of keeping it.")
]
Deep = Annotated[
    bool,
    typer.Option("--16-bit", help="Write PNG files of 16 bits a channel; a stream carries 8 bits of them."),
]
MaxPixels = Annotated[
    int,
    typer.Option(min=1, help="Refuse larger pictures; above the default, sides may exceed 32768 too."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Leave inputs alone whose output exists, or that are results of others."
    ),
]
Jobs = Annotated[
    int,
    typer.Option(min=1, max=64, help="Files at once; they share the weights, each needs its own memory."),
]


def plan_outputs(inputs: Sequence[Path], output: str | None, suffix: str) -> list[Path]:
    """Where each input's result goes; makes the output folder if one is asked for.

    Args:
        inputs: files or ``-``.
        output: file, folder (existing or ending in a slash), ``-``, or None for "beside the input".
        suffix: of derived names, with its dot.

    Raises:
        UsageError: several inputs for one output.
        OutputError: the folder cannot be made.
    """
    piped = STANDARD in inputs
    folder = output is not None and (output.endswith("/") or os.path.isdir(output))
    if piped and len(inputs) > 1:
        raise UsageError("standard input cannot be mixed with other inputs")
    if piped and folder:
        raise UsageError("standard input needs an output file, not a folder")
    if output is not None and not folder and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} inputs need a folder as output: end its name in / to make it")
    if output is not None and not folder:
        return [Path(output)]
    if piped:
        return [STANDARD]
    results = [Path(output or path.parent, path.stem + suffix) for path in inputs]
    files = zip(map(os.path.realpath, inputs), map(os.path.realpath, results), strict=True)
    made = Counter(result for source, result in files if result != source)  # else ``process`` will see to it
    if twice := [result for result, count in made.items() if count > 1]:
        raise UsageError(f"several inputs would be written to {twice[0]}; rename them or use other folders")
    if output is not None:
        make_folder(Path(output))
    return results


def check_suffix(output: str | None, outputs: list[Path], deep: bool = False) -> None:
    """Refuse an output that the user named with a suffix other than a lossless picture's, or other than
    ``.png`` where 16 bits a channel are asked for.

    Raises:
        UsageError: such a suffix.
    """
    if output is None or outputs != [Path(output)] or outputs == [STANDARD]:
        return  # derived names and standard output are PNG
    suffix = outputs[0].suffix.lower()
    if suffix not in PICTURE_FORMATS:
        known = " ".join(PICTURE_FORMATS)
        raise UsageError(f"{output}: the suffix must name a lossless picture format: {known}")
    if deep and suffix != ".png":
        raise UsageError(f"{output}: 16 bits a channel are written to .png files only")


def check_tasks(task: str, strength: float, passes: int) -> tuple[str, ...]:
    """The tasks that are named; raises UsageError where one is unknown, or none goes with the rest."""
    tasks = parse_tasks(task)
    if not tasks and (strength, passes) != (1, 1):
        raise UsageError("--strength and --passes go with --task")
    return tasks


def read_input(path: Path) -> bytes:
    """The bytes of a file or of standard input; raises InputError."""
    if path != STANDARD:
        return read_bytes(path)
    try:
        return sys.stdin.buffer.read()
    except (OSError, ValueError, AttributeError) as error:  # closed, or no standard input at all
        raise InputError("standard input cannot be read") from error


def read_picture(
    data: bytes, source: Path, *, strip: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture in a file, after a warning for everything that is lost of it; raises InputError.

    Args:
        data: the file.
        source: its name.
        strip: drop its metadata.
        max_pixels: refuse a larger one.
    """
    image, losses = read_image(data, max_pixels, strip)
    _warn(source, losses)
    return image


def picture_file(
    image: Image.Image, source: Path, target: Path, *, strip: bool = False, deep: bool = False
) -> bytes:
    """A picture as a file of the format that its name asks for, PNG without one; warns of what is lost.

    Args:
        image: the picture.
        source: what it was made of.
        target: where it goes.
        strip: drop its metadata.
        deep: write 16 bits a channel.
    """
    for key in INFO.values() if strip else ():
        image.info.pop(key, None)
    data, losses = picture_bytes(image, target.suffix or ".png", deep)
    _warn(source, losses)
    return data


def tell_if_left_alone(source: Path, restored: Image.Image) -> None:
    """Say where ``auto`` was to do something, and did nothing."""
    from llicm_cli.pipeline import was_left_alone

    if was_left_alone(restored):
        words = "auto left it as it was: the guide is sure of no degradation; inspect shows what it sees"
        console.say(f"llicm: {source}: {words}, --task TASK restores all the same")


def _warn(source: Path, losses: Sequence[str]) -> None:
    for loss in losses:
        console.say(f"llicm: {source}: warning: {loss}")


def report(inputs: Sequence[Path], show: Callable[[Path], None]) -> None:
    """Show something of each input; an input that fails does not stop the others.

    Raises:
        typer.Exit: some input failed; the exit code is that of the first failure.
        OutputError: standard output cannot be written.
    """
    failures: list[Failure] = []
    for path in inputs:
        try:
            show(path)
        except OutputError:
            raise
        except LlicmError as error:
            failures.append((path, error.exit_code))
            console.say(f"llicm: {path}: {error}")
        except Exception as error:
            failures.append((path, console.fault(error, about=f"{path}: ")))
    _end(failures, len(inputs))


def _end(failures: list[Failure], count: int) -> None:
    """List the failed ones of so many inputs, if any, and exit with the code of the first."""
    if failures:
        if count > 1:
            names = ", ".join(str(path) for path, _ in failures)
            console.say(f"llicm: {len(failures)} of {count} failed: {names}")
        raise typer.Exit(failures[0][1])


@contextmanager
def _shared_cores(jobs: int) -> Iterator[None]:
    """So many threads of ours share the threads that torch would take for one."""
    if jobs == 1:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process(
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    convert: Callable[[bytes, Path, Path], bytes],
    *,
    overwrite: bool,
    skip_existing: bool,
    jobs: int,
) -> None:
    """Convert each input and write its output; an input that fails does not stop the others.

    Several at once are threads of this process, which holds the networks once.

    Args:
        inputs: files, or one ``-``.
        outputs: where their results go, from ``plan_outputs``.
        convert: (input bytes, input path, output path) -> output bytes.
        overwrite: replace existing outputs.
        skip_existing: leave inputs alone whose output exists, or that are the output of another input.
        jobs: how many at once.

    Raises:
        typer.Exit: some input failed; the exit code is that of the first failure.
        UsageError: both overwrite and skip; or an input is the output of another one and none is skipped.
        OutputError: a result would go to a terminal.
    """
    if overwrite and skip_existing:
        raise UsageError("give only one of --overwrite and --skip-existing")
    if STANDARD in outputs:
        console.check_no_terminal()
    pairs = list(zip(inputs, outputs, strict=True))
    files = [(os.path.realpath(source), os.path.realpath(target)) for source, target in pairs]
    made = {target for source, target in files if target != source}

    def also_made(source: Path) -> bool:
        return source != STANDARD and os.path.realpath(source) in made

    if not skip_existing and (results := [source for source in inputs if also_made(source)]):
        raise UsageError(f"{results[0]} is an input and the output of another one; use another folder (-o)")

    def there(target: Path) -> bool:
        return skip_existing and target != STANDARD and os.path.isfile(target)

    def one(source: Path, target: Path) -> int | None:
        """The exit code; None if there was nothing to do."""
        if also_made(source) or there(target):
            return None
        try:
            data = read_input(source)
            if target != STANDARD:
                check_output(target, overwrite=overwrite)
            result = convert(data, source, target)
            if target == STANDARD:
                console.show_bytes(result)
            else:
                write_file(target, result, overwrite=overwrite)
        except LlicmError as error:
            if isinstance(error, OutputError) and there(target):
                return None  # another process has made it meanwhile
            console.say(f"llicm: {target if isinstance(error, OutputError) else source}: {error}")
            return error.exit_code
        except Exception as error:
            return console.fault(error, about=f"{source}: ")
        return 0

    jobs = min(jobs, len(pairs))
    failures: list[Failure] = []
    skipped = 0
    pool = ThreadPoolExecutor(jobs)
    try:
        with _shared_cores(jobs), console.progress("files") as tick:
            running = [(source, pool.submit(one, source, target)) for source, target in pairs]
            for done, (source, future) in enumerate(running):
                tick(done / len(pairs), source.name)
                code = future.result()
                if code is None:
                    skipped += 1
                elif code:
                    failures.append((source, code))
    except KeyboardInterrupt:
        console.say("llicm: interrupted")
        remove_unfinished()
        os._exit(130)  # at once: threads that are at work cannot be stopped
    finally:
        pool.shutdown(cancel_futures=True)
    if skipped:
        console.say(f"llicm: {skipped} of {len(pairs)} were there already")
    _end(failures, len(pairs))
