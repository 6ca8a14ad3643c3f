"""Prints the table of docs/scaling.md: python benchmarks/scaling_table.py."""

from lightning_dga.alignment import Cost
from lightning_dga.cli.plan import BANDWIDTH, FLOPS, size

MODELS = {"125M": 125e6, "1.3B": 1.3e9, "7B": 7e9, "70B": 70e9}
# parameters, processes, domains, shards, estimator
ROWS = [
    ("125M", 8, 10, False, "in_step"),
    ("125M", 8, 10, False, "backward"),
    ("125M", 512, 262_144, False, "in_step"),
    ("1.3B", 64, 10, False, "backward"),
    ("1.3B", 64, 1_000, False, "backward"),
    ("7B", 512, 10, True, "in_step"),
    ("7B", 512, 10, True, "batched"),
    ("7B", 512, 10, True, "backward"),
    ("7B", 512, 1_000, True, "in_step"),
    ("7B", 512, 1_000, True, "batched"),
    ("7B", 512, 1_000, True, "backward"),
    ("70B", 4_096, 10, True, "batched"),
    ("70B", 4_096, 1_000, True, "batched"),
    ("70B", 4_096, 262_144, True, "in_step"),
    ("70B", 4_096, 262_144, True, "batched"),
]
HEAD = [
    "P",
    "W",
    "k",
    "layout",
    "estimator",
    "sent per update",
    "samples passed per update",
    "time per update",
    "share of time",
]


def table() -> str:
    """The table, in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD)]
    for name, processes, domains, sharded, estimator in ROWS:
        cost = Cost(
            domains, 100, 2048 if processes < 4096 else 8192, 2, 64, estimator, processes=processes, sharded=sharded,
            parameters=int(MODELS[name]), local_batch_size=2, tokens_per_sample=4096,
        )  # fmt: skip
        update = cost.seconds(cost.update_work, cost.update_bytes, flops=FLOPS, bandwidth=BANDWIDTH)
        training = cost.seconds(cost.training_work, cost.training_bytes, flops=FLOPS, bandwidth=BANDWIDTH)
        layout = "FSDP2" if sharded else "DDP"
        moved = size(cost.sent(cost.update_bytes))
        samples = f"{cost.update_work:,.2f}"
        share = f"{update / training:.2%}"
        lines.append(
            [name, f"{processes:,}", f"{domains:,}", layout, estimator, moved, samples, f"{update:.3g} s", share]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
