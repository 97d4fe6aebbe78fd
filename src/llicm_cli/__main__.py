"""``python -m llicm_cli`` is ``llicm``."""

from llicm_cli.cli.main import run

run()
