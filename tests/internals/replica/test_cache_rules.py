"""What the response cache does with the headers of a service that has a replica."""

from app.core.cache.responses import rules


def test_the_position_of_a_write_is_not_stored() -> None:
    headers = [(b"content-type", b"text/plain"), (b"commit-lsn", b"00000000/03000148")]

    assert rules.storable(headers) == [(b"content-type", b"text/plain")]
