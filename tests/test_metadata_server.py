"""The fake metadata server keeps the rules that Google's keeps, so that what passes here passes there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests

from tests.fakes.metadata import ACCOUNT, ROOT, SCOPES, TOKEN, VALUES, MetadataServer

FLAVOR = {"Metadata-Flavor": "Google"}
GOOGLE_AUTH = """
import google.auth, google.auth.transport.requests
credentials, project = google.auth.default()
credentials.refresh(google.auth.transport.requests.Request())
print(project, credentials.service_account_email, credentials.token)
"""


def get(server: MetadataServer, path: str, headers: dict[str, str] | None = None) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(
            server.url + path, headers=FLAVOR if headers is None else headers, timeout=10, allow_redirects=False
        )


@pytest.fixture
def server():
    with MetadataServer({**VALUES, "instance/attributes/install-nvidia-driver": "True"}) as running:
        yield running


@pytest.mark.parametrize("headers", [{}, {"Metadata-Flavor": "other"}, {**FLAVOR, "X-Forwarded-For": "10.0.0.1"}])
def test_it_refuses_whoever_does_not_ask_as_a_program_on_the_machine_does(server, headers):
    assert get(server, f"{ROOT}instance/id", headers).status_code == 403
    assert server.paths == [f"{ROOT}instance/id"]


def test_it_says_who_it_is_in_every_answer(server):
    for path in ("/", f"{ROOT}instance/id", f"{ROOT}instance/nothing"):
        assert get(server, path).headers["Metadata-Flavor"] == "Google"


@pytest.mark.parametrize("path", [f"{ROOT}instance/nothing", "/computeMetadata/v1beta1/instance/id"])
def test_it_has_nothing_under_other_keys(server, path):
    assert get(server, path).status_code == 404


def test_a_directory_is_a_list_of_names_behind_a_slash(server):
    assert get(server, f"{ROOT}instance/attributes").status_code == 301
    assert get(server, f"{ROOT}instance/attributes/").text == "install-nvidia-driver\n"
    assert get(server, f"{ROOT}instance/service-accounts/").text == f"{ACCOUNT}/\ndefault/\n"


def test_a_recursive_answer_renames_keys_but_not_attributes(server):
    tree = get(server, f"{ROOT}instance/?recursive=true&alt=json").json()
    assert tree["attributes"] == {"install-nvidia-driver": "True"}
    assert tree["networkInterfaces"] == [{"ip": "10.128.0.2", "mtu": 1460}]
    assert tree["serviceAccounts"]["default"] == {"aliases": ["default"], "email": ACCOUNT, "scopes": list(SCOPES)}


def test_googles_own_client_gets_project_account_and_token_from_it(server, tmp_path):
    environment = {
        "HOME": str(tmp_path),
        "GCE_METADATA_HOST": server.host,
        "GCE_METADATA_IP": server.host,
        "NO_PROXY": "*",
    }
    said = subprocess.run(
        [sys.executable, "-c", GOOGLE_AUTH], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.stdout.split() == ["vision-lab", ACCOUNT, TOKEN], said.stderr
