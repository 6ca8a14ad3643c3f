from tests.helpers.machines import machines
from tests.helpers.slurm import slurm

__all__ = ["machines", "slurm"]
