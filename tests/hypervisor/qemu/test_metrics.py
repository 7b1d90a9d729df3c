"""What machines used: rates out of counters that go back, stop and are unknown, over hours and days."""

import os
import sqlite3
import stat
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import NotFound
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.metrics import LINES, MOST_VALUES, cpu_time, interface_counters, series
from paddock.hypervisor.qemu.metrics_store import COUNTERS, LEVELS, MetricsStore, Sample, rate_of
from paddock.machine.image import ImageManifest
from tests.hypervisor.qemu.machines import make_machine

NOW = 1_800_000_000.0  # on an hour
A = UUID("11111111-2222-4333-8444-555555555555")
HOUR, DAY = 3600.0, 86400.0
MAC = "52:54:00:12:34:56"


def sample(at: float, value: float | None, run: int = 1, machine: UUID = A) -> Sample:
    return Sample(machine, at, run, (value,) * len(COUNTERS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.sqlite3"


def _fill(store: MetricsStore, seconds: float, rate: float = 2.0) -> None:
    """A machine that uses the same all the time, until NOW."""
    first = NOW - seconds
    for at in range(int(first), int(NOW) + 1, 30):
        store.add([sample(at, (at - first) * rate)])


def test_rates_are_the_differences_of_counters() -> None:
    rate = rate_of(sample(0, 10), sample(30, 70), 75)
    assert rate
    assert rate.values == (2.0,) * len(COUNTERS)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (sample(0, 100), sample(30, 60), 2.0),  # the guest was rebooted: its counters begin at 0
        (sample(0, 100), sample(30, 160, run=2), 160 / 30),  # another QEMU, that has counted further
        (sample(0, None), sample(30, 60), None),  # nobody knows since when
        (sample(0, None), sample(30, 60, run=2), 2.0),
        (sample(0, 100), sample(30, None), None),
    ],
)
def test_counters_that_begin_again_and_are_not_known(before: Sample, after: Sample, expected: float | None) -> None:
    rate = rate_of(before, after, 75)
    assert rate
    assert rate.values[0] == pytest.approx(expected)


@pytest.mark.parametrize("seconds", [0, -30, 76])
def test_no_rate_over_a_gap_or_a_clock_that_went_back(seconds: float) -> None:
    assert rate_of(sample(100, 0), sample(100 + seconds, 60), 75) is None


@pytest.mark.parametrize(("back", "level"), [(HOUR, 30), (2 * HOUR, 30), (3 * HOUR, 300), (DAY, 300), (3 * DAY, 3600)])
def test_the_finest_level_that_reaches_back_is_taken(path: Path, back: float, level: int) -> None:
    store = MetricsStore(path)
    _fill(store, 4 * HOUR)
    got, rates = store.rates(A, NOW - back, NOW, NOW)
    assert got == level
    assert rates
    assert {round(r.values[0] or 0, 6) for r in rates} == {2.0}
    assert all(r.end - r.start == level for r in rates)
    store.close()


def test_each_level_is_kept_for_its_time(path: Path) -> None:
    store = MetricsStore(path)
    _fill(store, 3 * HOUR)
    store.prune(NOW)
    with sqlite3.connect(path) as database:
        oldest = dict(database.execute("SELECT level, min(at) FROM sample GROUP BY level").fetchall())
    assert oldest == {30: NOW - 2 * HOUR, 300: NOW - 3 * HOUR, 3600: NOW - 3 * HOUR}
    store.prune(NOW + 31 * DAY)
    assert store.rates(A, NOW - HOUR, NOW, NOW)[1] == []
    store.close()


def test_a_restart_of_ours_loses_nothing(path: Path) -> None:
    store = MetricsStore(path)
    store.add([sample(NOW - 30, 0)])
    store.close()
    store = MetricsStore(path)
    store.add([sample(NOW, 60)])
    assert [r.values[0] for r in store.rates(A, NOW - HOUR, NOW, NOW)[1]] == [2.0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_a_machine_takes_its_samples_with_it(path: Path) -> None:
    store, other = MetricsStore(path), uuid4()
    store.add([sample(NOW - 30, 0), sample(NOW - 30, 0, machine=other)])
    store.add([sample(NOW, 60), sample(NOW, 90, machine=other)])
    store.forget(A)
    assert store.rates(A, NOW - HOUR, NOW, NOW)[1] == []
    assert len(store.rates(other, NOW - HOUR, NOW, NOW)[1]) == 1
    store.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, None])
def test_a_damaged_file_is_begun_anew(path: Path, damage: bytes | None) -> None:
    store = MetricsStore(path)
    _fill(store, 4 * HOUR)
    store.close()
    if damage:
        path.write_bytes(damage)
    else:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
    store = MetricsStore(path)
    store.add([sample(NOW - 30, 0)])
    store.rates(A, NOW - HOUR, NOW, NOW)
    store.add([sample(NOW + 10, 0), sample(NOW + 40, 60)])
    store.add([sample(NOW + 70, 120)])
    assert len(store.rates(A, NOW, NOW + 100, NOW + 100)[1]) >= 1
    store.close()


def test_a_month_has_at_most_500_values_and_a_line_per_name(path: Path) -> None:
    store = MetricsStore(path)
    first = int(NOW - 29 * DAY)
    for at in range(first, int(NOW) + 1, 3600):
        store.add([sample(at, (at - first) * 2.0)])
    start = NOW - 29 * DAY
    level, rates = store.rates(A, start, NOW, NOW)
    assert (level, len(rates)) == (3600, 29 * 24)
    lines = series(rates, start, NOW, max(level, (NOW - start) / MOST_VALUES))
    assert [line.name for line in lines] == [name for name, _, _ in LINES]
    assert all(300 < len(line.values) <= MOST_VALUES for line in lines)
    assert {round(v, 6) for _, v in lines[0].values} == {200.0}  # per cent of one CPU
    assert {round(v, 6) for _, v in lines[1].values} == {2.0}
    times = [at for at, _ in lines[0].values]
    assert times == sorted(times)
    assert start < times[0]
    assert times[-1] == NOW
    store.close()


def test_values_are_means_over_a_step() -> None:
    rates = [rate_of(sample(at, at * at), sample(at + 30, (at + 30) ** 2), 75) for at in range(0, 300, 30)]
    lines = series([r for r in rates if r], 0, 300, 150)
    assert [at for at, _ in lines[1].values] == [150.0, 300.0]
    assert lines[1].values[0][1] == pytest.approx(150.0)  # from 0 to 150: 150 * 150 in 150 s


def test_cpu_time_of_a_process() -> None:
    before, run = cpu_time(os.getpid())
    used = sum(os.times()[:2])
    while sum(os.times()[:2]) < used + 0.1:
        sum(range(1000))
    after, same = cpu_time(os.getpid())
    assert 0.08 <= after - before < 5
    assert run == same


def _card(mac: object = MAC, **stats: object) -> dict[str, object]:
    counted = {"rx-packets": 1, "tx-packets": 2, "rx-bytes": 3, "tx-bytes": 4, **stats}
    return {"name": "eth0", "hardware-address": mac, "statistics": counted}


def test_the_counters_of_the_machines_own_card() -> None:
    lo = {"name": "lo", "statistics": {"rx-bytes": 99}}
    assert interface_counters([lo, _card("02:00:00:00:00:01"), _card(MAC.upper())], MAC) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "nonsense",
    [None, 7, "x", [], [None], [[]], [_card(**{"rx-bytes": "many"})], [_card(**{"rx-bytes": -1})],
     [_card(**{"rx-bytes": 1e300})], [{"hardware-address": MAC}], [_card(**{"rx-bytes": 10**400})]],
)  # fmt: skip
def test_what_a_guest_makes_up(nonsense: object) -> None:
    assert interface_counters(nonsense, MAC) == (None,) * 4


def test_a_machine_that_never_ran_has_empty_lines(host: QemuHypervisor, image: ImageManifest) -> None:
    machine = make_machine(image)
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    now = clock.now().timestamp()
    got = host.machines.metrics(machine.uuid, now - HOUR, now, 0)
    assert got.step == LEVELS[0][0]
    assert {line.name for line in got.series} == {name for name, _, _ in LINES}
    assert all(line.values == () for line in got.series)
    with pytest.raises(NotFound):
        host.machines.metrics(uuid4(), now - HOUR, now, 0)
