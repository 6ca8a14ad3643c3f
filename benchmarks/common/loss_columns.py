"""How the losses of trained mixtures are shown, but for those of `benchmarks/scenarios.py`, which are a grid."""

from typing import Any

Row = dict[str, Any]


def loss(row: Row) -> str:
    return f"{row['value']:.3f}"


def cap(row: Row) -> str:
    return f"{row['cap']:,}"


def aligning(row: Row) -> str:
    return f"{row['aligning']:.0%}"


COLUMNS = {
    "resolution": {
        "seeds": "seeds",
        "two means differ if they differ by, nats/token": loss,
        "std of one run": lambda row: f"{row['spread']:.4f}",
        "mixtures that were repeated": "mixtures",
        "degrees of freedom": "freedom",
    },
    "few_documents": {
        "target": "target",
        "target documents": "documents",
        "rule": "rule",
        "test loss, nats/token": loss,
        "of each seed": lambda row: ", ".join(f"{value:.3f}" for value in row["values"]),
        "passes over the most repeated cluster": lambda row: f"{row['epochs_of_top_domain']:.0f}",
        "share of time aligning": aligning,
    },
    "forgetting": {
        "target": "target",
        "tokens per domain": cap,
        "rule": "rule",
        "test loss of the target, nats/token": loss,
        "loss on held-out documents of all domains": lambda row: f"{row['general']:.3f}",
    },
    "unknown_length": {
        "target": "target",
        "tokens per domain": lambda row: f"{row['cap']:,}" if row["cap"] else "all",
        "prior": "prior",
        "length": lambda row: "known" if row["lookahead"] is None else f"not known, lookahead {row['lookahead']:g}",
        "test loss, nats/token": loss,
        "passes over the most repeated domain": lambda row: f"{row['passes']:.1f}",
    },
    "unknown_length_share": {
        "lookahead": lambda row: f"{row['lookahead']:g}",
        "least share of the best domain, in that with a known length": lambda row: f"{row['value']:.2f}",
    },
    "sensitivity": {
        "target": "target",
        "tokens per domain": cap,
        "setting": "setting",
        "at": "at",
        "test loss, nats/token": loss,
        "share of time aligning": aligning,
    },
}
