"""A fixed order of sums, so that results recomputed after a kill are bit-identical."""

from contextlib import AbstractContextManager


def one_thread() -> AbstractContextManager[object]:
    """Keeps BLAS, and OpenMP in this thread, to one thread each; with more, the order of a sum depends on timing."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
