"""The subcommands of ``dga-domains`` and the handling of user errors."""

import argparse
import sys
from types import ModuleType

from lightning_dga.cli.domains import basis, cluster, embed, histogram, nearest, tokenize

# each module has `add_arguments(parser)` and `run(options)`; its docstring is the help
SUBCOMMANDS: dict[str, ModuleType] = {
    "embed": embed,
    "cluster": cluster,
    "histogram": histogram,
    "basis": basis,
    "nearest": nearest,
    "tokenize": tokenize,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs ``dga-domains``; a user error gives one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dga-domains", description="Turns a corpus into domains, and compares a target with them before a run."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in SUBCOMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        subparser = subparsers.add_parser(
            name,
            help=summary[:1].lower() + summary[1:],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    options = parser.parse_args(arguments)
    try:
        SUBCOMMANDS[options.command].run(options)
    # `DataError`, `DomainsError` and errors for arguments out of range are subclasses of `ValueError`
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"dga-domains: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("dga-domains: interrupted; repeat the command to resume from what is finished.", file=sys.stderr)
        sys.exit(130)
