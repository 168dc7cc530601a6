"""Requests that other sites cause are refused; every answer keeps the page to itself."""

import socket

import pytest
from starlette.testclient import TestClient

from swd_video.studio.server.guard import is_own_name

JOB = {"kind": "finish"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8500", "127.0.0.1.evil.example", "10.0.0.7", "", "[::1"]
)
def test_another_name_of_this_address_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/state", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:8500"])
def test_this_machine_by_any_of_its_own_names_is_served(client: TestClient, host: str) -> None:
    assert client.get("/api/state", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8501", "http://localhost:8500"]
)
def test_pages_of_other_sites_can_ask_for_nothing(client: TestClient, origin: str) -> None:
    answer = client.post("/api/jobs", json=JOB, headers={"Origin": origin})
    assert (answer.status_code, client.get("/api/state").json()["jobs"]) == (403, [])
    assert client.post("/api/jobs", json=JOB, headers={"Origin": "http://127.0.0.1:8500"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_can_embed_nothing_but_link_to_the_page(client: TestClient, site: str) -> None:
    headers = {"Sec-Fetch-Site": site}
    assert client.get("/api/state", headers=headers).status_code == 403
    assert client.get("/", headers=headers).status_code == 200


def test_a_form_of_another_site_which_needs_no_permission_is_refused(client: TestClient) -> None:
    answer = client.post("/api/jobs", content='{"kind": "finish"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]


def test_every_answer_says_that_only_own_scripts_run(client: TestClient) -> None:
    for address in ("/", "/page/page.js", "/api/state", "/nowhere"):
        policy = client.get(address).headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy


def test_who_listens_to_other_machines_goes_by_any_number_and_its_own_name() -> None:
    here = socket.gethostname().lower()
    assert is_own_name("10.0.0.7", "0.0.0.0") and is_own_name(here, "0.0.0.0")
    assert not is_own_name("evil.example", "0.0.0.0")
    assert not is_own_name("10.0.0.7", "127.0.0.1") and not is_own_name(None, "127.0.0.1")
