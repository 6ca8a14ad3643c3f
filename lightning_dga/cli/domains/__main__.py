"""``python -m lightning_dga.cli.domains``."""

from lightning_dga.cli.domains.command import main

main()
