"""``python -m lightning_dga.make_domains``."""

from lightning_dga.make_domains.command import main

main()
