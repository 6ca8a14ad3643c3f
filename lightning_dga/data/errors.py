"""The error for input data."""


class DataError(ValueError):
    """Input data that cannot be used; the message names the file, the place and the domain."""
