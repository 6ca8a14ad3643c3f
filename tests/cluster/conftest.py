from tests.cluster.machines import machines
from tests.cluster.slurm import slurm

__all__ = ["machines", "slurm"]
