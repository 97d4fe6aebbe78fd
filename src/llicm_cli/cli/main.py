"""The ``llicm`` command. Exit codes are those of ``errors``; 130 when interrupted, 1 for a fault of ours."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from llicm_cli.cli import bench, console, train
from llicm_cli.cli.decode import decode
from llicm_cli.cli.degrade import degrade
from llicm_cli.cli.encode import encode
from llicm_cli.cli.enhance import enhance
from llicm_cli.cli.info import info
from llicm_cli.cli.inspect import inspect
from llicm_cli.cli.models import models
from llicm_cli.errors import LlicmError
from llicm_cli.version import __version__

INTERRUPTED = 130
EPILOG = (
    "Exit codes: 0 done; 1 internal fault; 2 wrong usage; 3 unreadable input; 4 bad stream; "
    "5 weights missing or unfit; 6 output not writable; 7 target size out of reach; "
    "130 interrupted or terminated. Of several inputs, the first that failed decides."
)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=EPILOG,
    help="LL-ICM: a learned image codec whose bitstream is made for low-level vision models.",
)  # fmt: skip
app.command(no_args_is_help=True)(encode)
app.command(no_args_is_help=True)(decode)
app.command(no_args_is_help=True)(enhance)
app.command(no_args_is_help=True)(info)
app.command(no_args_is_help=True)(inspect)
app.command(no_args_is_help=True)(degrade)
app.command()(models)
app.add_typer(train.app, name="train")
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.show(f"llicm {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(envvar="LLICM_WEIGHTS", help="Folder of weights to use, not the shipped ones."),
    ] = None,
) -> None:
    if weights is not None:
        os.environ["LLICM_WEIGHTS"] = str(weights)


def run() -> None:
    """Entry point: whatever goes wrong ends in one line and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system ends as Ctrl-C does
    try:
        app()
    except LlicmError as error:
        console.say(f"llicm: {error}")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer makes it of Ctrl-C without a word
            console.say("llicm: interrupted")
        raise
    except Exception as error:
        sys.exit(console.fault(error))
