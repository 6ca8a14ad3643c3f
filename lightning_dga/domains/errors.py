"""The error for domains that cannot be made or used."""


class DomainsError(ValueError):
    """A folder of domains, or what was asked of one, that cannot be used; the message says how to go on."""
