"""Errors across processes, the clock, ids, files, and settings."""

from pathlib import Path
from uuid import UUID

import pytest

from paddock.base import clock, errors, settings
from paddock.base.files import write_private
from paddock.base.ids import mac_address, new_password, new_token
from paddock.base.settings import parse


@pytest.mark.parametrize("cls", [errors.Invalid, errors.NoRoom, errors.StaleEpoch, errors.DiskFull, errors.Locked])
def test_errors_cross_processes(cls: type[errors.PaddockError]) -> None:
    there = errors.from_wire(errors.to_wire(cls("no", hint="try this", field="name")))
    assert type(there) is cls
    assert (there.message, there.hint, there.field) == ("no", "try this", "name")


def test_unknown_error_stays_an_error() -> None:
    assert type(errors.from_wire({"code": "of the next version", "message": "x"})) is errors.PaddockError


def test_every_error_is_known_by_its_code() -> None:
    def below(cls: type[errors.PaddockError]) -> set[type[errors.PaddockError]]:
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__() if sub.__module__ == errors.__name__))

    for cls in below(errors.PaddockError):
        assert type(errors.from_wire({"code": cls.code, "message": ""})) is cls


def test_clock_jumps_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shift"
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(file))
    before = clock.now()
    file.write_text("3600")
    assert 3599 < (clock.now() - before).total_seconds() < 3700
    file.write_text("-3600")
    assert (clock.now() - before).total_seconds() < -3500


def test_tokens_are_what_clients_accept() -> None:
    token = new_token()
    assert len(token) == 64
    assert token.isalnum()
    assert token != new_token()


def test_passwords_have_no_lookalikes() -> None:
    assert not set("0O1lI") & set("".join(new_password() for _ in range(200)))


def test_mac_is_of_qemus_range_and_steady() -> None:
    uuid = UUID("12345678-1234-5678-1234-567812ffffff")
    assert mac_address(uuid) == "52:54:00:ff:ff:ff"
    assert mac_address(uuid, 1) == "52:54:00:00:00:00"


def test_private_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_private(path, "secret")
    write_private(path, "another")
    assert path.read_text() == "another"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_file_a_cloud_of_one_node(tmp_path: Path) -> None:
    said = settings.load(tmp_path / "paddock.toml")
    assert [n.name for n in said.node] == ["n1"]
    assert (said.api.host, said.node[0].first_ssh_port, said.node[0].ssh_ports) == ("127.0.0.1", 2200, 100)


TWO = """
[[node]]
name = "s1"
first_id = 1000
first_ssh_port = 2200
[[node]]
name = "s2"
first_id = 2000
first_ssh_port = {port}
"""


def test_two_nodes_as_in_kvm_clouds_example() -> None:
    said = settings.parse(TWO.format(port=2300), "paddock.toml")
    assert [(n.name, n.first_id, n.first_ssh_port) for n in said.node] == [("s1", 1000, 2200), ("s2", 2000, 2300)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (TWO.format(port=2250), "the SSH ports of nodes s1 and s2 overlap"),
        ("[[node]]\nname='a'\n[[node]]\nname='a'", "two nodes have the same name"),
        ("[api]\nport = 0", "api.port"),
        ("[api]\nprot = 80", "api.prot"),
        ("[[node]]\nname='A_B'", "node.0.name"),
        ("[[node]]\nname='a'\nwarm='sometimes'", "node.0.warm"),
        ("[[node]]\nname='a'\nwarm_budget_gib=-1", "node.0.warm_budget_gib"),
        ("[database]\nurl='mysql://x'", "database.url"),
        ("[api", "is not TOML"),
    ],
)
def test_wrong_settings_name_the_key(text: str, wrong: str) -> None:
    with pytest.raises(errors.Invalid, match=wrong):
        settings.parse(text, "paddock.toml")


@pytest.mark.parametrize(("text", "tls"), [
    ("", False), ('host = "localhost"', False), ('host = "127.0.0.9"', False), ('host = "::1"', False),
    ('host = "0.0.0.0"', True), ('host = "::"', True), ('host = "192.0.2.1"', True), ('host = "cloud.example"', True),
    ('tls_cert = "a"\ntls_key = "b"', True),
])  # fmt: skip
def test_plain_http_is_for_this_machine_only(text: str, tls: bool) -> None:
    assert parse(f"[api]\n{text}", "paddock.toml").api.tls is tls


@pytest.mark.parametrize(("text", "field"), [
    ('tls_cert = "a"', "api"), ("tls = true", "api.tls"), ("rate_limit = -1", "api.rate_limit"),
    ('public_url = "cloud.example"', "api.public_url"), ('public_url = "https://cloud.example/v1"', "api.public_url"),
])  # fmt: skip
def test_what_the_api_can_not_be(text: str, field: str) -> None:
    with pytest.raises(errors.Invalid) as refused:
        parse(f"[api]\n{text}", "paddock.toml")
    assert refused.value.field == field


@pytest.mark.parametrize(("text", "shared"), [
    ("", False), ('driver = "fake"', True), ("shared = true", True), ('driver = "fake"\nshared = false', False),
])  # fmt: skip
def test_which_nodes_projects_may_share(text: str, shared: bool) -> None:
    assert parse(f'[[node]]\nname = "n1"\n{text}', "paddock.toml").node[0].may_be_shared is shared
