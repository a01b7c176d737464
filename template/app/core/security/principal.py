"""The authenticated sender of a request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a machine that has shown a valid credential, which is not kept here.

    Args:
        subject: the issuer's stable name of the user or machine (`sub`), or that of an API key.
        scopes: what the caller may do.
        client_id: the application that acts for the subject, if the issuer names one.
    """

    subject: str
    scopes: frozenset[str]
    client_id: str | None = None
