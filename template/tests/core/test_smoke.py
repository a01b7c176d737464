"""The real server, with lifespan and two workers, answers every route that OpenAPI knows."""

from tests.core.openapi import Operation, operations
from tests.core.plugin import migrated_database
from tests.core.serving import serving

# Each request is sent this often: cold and warm, missed and hit, by one worker and the other.
TIMES = 4


def test_every_route_answers() -> None:
    with migrated_database() as url, serving(DATABASE_URL=url) as client:
        response = client.get("/openapi.json").raise_for_status()
        assert "server" not in response.headers
        document = response.json()
        created: dict[str, str | int] = {}
        answers = []
        for operation in operations(document):
            url = operation.url(created.get(operation.parent or ""))
            for _ in range(TIMES):
                response = client.request(
                    operation.method, url, json=operation.body, params=operation.query
                )
                answers.append((operation.method, url, response.status_code, response.text))
                if operation.method == "post" and response.status_code == 201:
                    created.setdefault(operation.path, response.json().get("id"))

    assert len(answers) >= 2 * TIMES
    assert [answer for answer in answers if answer[2] >= 500] == []


def test_a_path_takes_any_kind_of_identifier() -> None:
    operation = Operation("get", "/notes/{note_id}", None, {})

    assert operation.url(7) == "/notes/7"
    assert operation.url("\\1") == "/notes/\\1"
    assert operation.url(None) != operation.url(None)
