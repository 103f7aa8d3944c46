"""What the machine is, and what one attempt uses of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard_agent import host
from runyard_agent.attempt_sampler import AttemptSampler, container_pids

pytestmark = pytest.mark.system

CONTAINER = "c0ffee" * 10


@contextmanager
def child(program: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = host.inventory(tmp_path)

    assert found.hostname
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.cpu_count == len(os.sched_getaffinity(0))
    assert found.cpu_model
    assert found.memory_bytes > 1 << 28
    assert found.disk_free_bytes > 0
    assert found.os
    assert found.kernel == os.uname().release


def test_cpu_memory_and_disk_of_a_process_are_measured(tmp_path: Path) -> None:
    program = (
        f"import os, time\ndata = bytearray(os.urandom(1 << 20)) * 64\n"
        f"file = open({str(tmp_path / 'file')!r}, 'wb')\nfile.write(data); os.fsync(file.fileno())\n"
        "print('ready', flush=True)\ninput()\nends_at = time.process_time() + 0.3\n"
        "while time.process_time() < ends_at: pass\n"
        "print('worked', flush=True)\ninput()\n"
    )
    with child(program) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = AttemptSampler(in_container=False)
        began_at = time.monotonic()
        first = sampler.sample([process.pid])
        began_by = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "worked\n"
        seconds_min = time.monotonic() - began_by
        second = sampler.sample([process.pid])
        seconds_max = time.monotonic() - began_at

    assert first is not None
    assert second is not None
    # The time that it took, and that between two lines here, depends on the others of this machine.
    assert second.cpu_millicores / 1_000 * seconds_min < 0.5
    assert second.cpu_millicores / 1_000 * seconds_max > 0.2
    assert 64 << 20 < second.memory_used_bytes < 256 << 20
    assert second.network_is_host
    assert first.network_received_bytes == 0
    if "write_bytes" in Path("/proc/self/io").read_text():
        assert second.disk_written_bytes >= 64 << 20


def test_an_ended_attempt_has_no_sample() -> None:
    with child("print('ready', flush=True); input()") as process:
        sampler = AttemptSampler(in_container=False)
        assert sampler.sample([process.pid]) is not None
        process.kill()
        # Not waited for yet: a zombie uses nothing either.
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.001)
        assert sampler.sample([process.pid]) is None
    assert sampler.sample([process.pid, 2**22 + 1]) is None


def test_cpu_time_of_ended_children_is_kept() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    program = (
        f"import subprocess, sys\nprint('ready', flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\nprint('burnt', flush=True)\ninput()\n"
    )
    with child(program) as process:
        sampler = AttemptSampler(in_container=False)
        began_at = time.monotonic()
        sampler.sample([process.pid])
        began_by = time.monotonic()
        assert process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        seconds_min = time.monotonic() - began_by
        sample = sampler.sample([process.pid])
        seconds_max = time.monotonic() - began_at
    assert sample is not None
    assert sample.cpu_millicores * seconds_min / 1000 < 0.35
    assert sample.cpu_millicores * seconds_max / 1000 > 0.15


def test_cpu_time_of_a_child_that_is_waited_for_late_counts_when_it_was_used() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass\nprint('burnt', flush=True); input()"
    program = (
        f"import os, subprocess, sys\nprint('ready', flush=True)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}])\n"
        "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\nprint('ended', flush=True)\n"
        "sys.stdin.readline()\nchild.wait()\nprint('waited', flush=True)\nsys.stdin.readline()\n"
    )
    with child(program) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = AttemptSampler(in_container=False)
        millicores = []
        for said in ("burnt\n", "ended\n", "waited\n"):
            assert process.stdout.readline() == said
            # A list of processes has those that ended and were not waited for, or has not.
            listed = [process.pid] if said == "ended\n" else [process.pid, *_descendants(process.pid)]
            sample = sampler.sample(listed)
            assert sample is not None
            millicores.append(sample.cpu_millicores)
            process.stdin.write("\n")
            process.stdin.flush()
    assert millicores[0] > 0
    # 0.4 s within a hundredth of one would be 40 cores.
    assert max(millicores) < 5_000


def test_what_ended_children_wrote_counts_once(tmp_path: Path) -> None:
    if "write_bytes" not in Path("/proc/self/io").read_text():
        pytest.skip("this kernel does not account for what processes write")
    # The kernel adds what a child wrote to its parent when that has waited for it, and so for its children.
    writer = tmp_path / "writer.py"
    writer.write_text(
        "import os, subprocess, sys\n"
        "if sys.argv[1] == 'first': subprocess.run([sys.executable, __file__, 'second'])\n"
        "file = open(__file__ + sys.argv[1], 'wb')\nfile.write(bytes(8 << 20)); os.fsync(file.fileno())\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )
    program = (
        f"import subprocess, sys\nprint('ready', flush=True)\n"
        f"subprocess.run([sys.executable, {str(writer)!r}, 'first'])\nprint('waited', flush=True)\ninput()\n"
    )
    with child(program) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = AttemptSampler(in_container=False)

        def written_bytes() -> int:
            sample = sampler.sample([process.pid, *_descendants(process.pid)])
            assert sample is not None
            return sample.disk_written_bytes

        written = [written_bytes()]
        for said in ("ready\n", "ready\n", "waited\n"):
            assert process.stdout.readline() == said
            written.append(written_bytes())
            process.stdin.write("\n")
            process.stdin.flush()
    assert written[1] >= 8 << 20
    assert 16 << 20 <= written[2] <= written[3] < 24 << 20


def _descendants(pid: int) -> list[int]:
    children = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return [*children, *(below for each in children for below in _descendants(each))]


def test_a_sample_takes_less_than_a_millisecond() -> None:
    sampler = AttemptSampler(in_container=False)

    def cost_seconds() -> float:
        started_at = time.perf_counter()
        sampler.sample([os.getpid()])
        return time.perf_counter() - started_at

    assert min(cost_seconds() for _ in range(50)) < 0.001


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """Give the maker of a /proc with one process in a container's cgroup."""

    def make(cgroup: str) -> dict[str, Path]:
        proc = tmp_path / "proc"
        fields = ["S"] + ["0"] * 10 + ["7", "3", "0", "0"] + ["0"] * 4 + ["100"] + ["0"] * 30
        write(proc / "77/stat", f"77 (a (b) c) {' '.join(fields)}\n")
        write(proc / "77/statm", "1000 500 100 0 0 0 0\n")
        write(proc / "77/cgroup", cgroup)
        for pid, interface in (("self", "eth0"), ("77", "eth7")):
            (proc / pid / "ns").mkdir(parents=True)
            (proc / pid / "ns/net").symlink_to(f"net:[{len(pid)}]")
            write(
                proc / pid / "net/dev",
                "Inter-| Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n"
                f"  {interface}: {len(pid)}000 0 0 0 0 0 0 0 {len(pid)}5 0 0\n",
            )
        return {"proc": proc, "cgroups": tmp_path / "cgroups"}

    return make


def test_a_container_is_read_from_cgroup_v2(machine: Callable[[str], dict[str, Path]]) -> None:
    folders = machine(f"0::/docker/{CONTAINER}\n")
    group = folders["cgroups"] / "docker" / CONTAINER
    write(group / "cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
    write(group / "memory.current", "5000\n")
    write(group / "memory.stat", "anon 1\ninactive_file 2000\n")
    write(group / "io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=6 rios=1\n")
    write(group / "cgroup.procs", "99\n77\n80\n")
    sampler = AttemptSampler(in_container=True, **folders)

    sample = sampler.sample([77])

    assert sample is not None
    assert (sample.memory_used_bytes, sample.disk_read_bytes, sample.disk_written_bytes) == (3000, 15, 26)
    assert (sample.network_received_bytes, sample.network_sent_bytes) == (2000, 25)
    assert not sample.network_is_host
    write(group / "cpu.stat", "usage_usec 1700000\n")
    later = sampler.sample([77])
    assert later is not None
    assert later.cpu_millicores > 0
    assert container_pids(77, CONTAINER, **folders) == (77, 80, 99)


def test_a_container_is_read_from_cgroup_v1(machine: Callable[[str], dict[str, Path]]) -> None:
    path = f"/docker/{CONTAINER}"
    folders = machine(f"3:memory:{path}\n2:cpuacct,cpu:{path}\n5:blkio:{path}\n9:pids:{path}\n0::/\n")
    groups = folders["cgroups"]
    write(groups / "memory/docker" / CONTAINER / "memory.usage_in_bytes", "5000\n")
    write(groups / "memory/docker" / CONTAINER / "memory.stat", "cache 1\ntotal_inactive_file 1000\n")
    write(groups / "cpuacct/docker" / CONTAINER / "cpuacct.usage", "1500000000\n")
    write(
        groups / "blkio/docker" / CONTAINER / "blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n",
    )
    write(groups / "pids/docker" / CONTAINER / "cgroup.procs", "77\n78\n")

    sample = AttemptSampler(in_container=True, **folders).sample([77])

    assert sample is not None
    assert (sample.memory_used_bytes, sample.disk_read_bytes, sample.disk_written_bytes) == (4000, 10, 20)
    assert container_pids(77, CONTAINER, **folders) == (77, 78)


def test_a_cgroup_that_cannot_be_read_gives_the_processes_instead(
    machine: Callable[[str], dict[str, Path]],
) -> None:
    sample = AttemptSampler(in_container=True, **machine("0::/\n")).sample([77])

    assert sample is not None
    assert sample.memory_used_bytes == 500 * os.sysconf("SC_PAGE_SIZE")


def test_a_recycled_pid_is_not_taken_for_the_container(
    machine: Callable[[str], dict[str, Path]],
) -> None:
    assert container_pids(77, CONTAINER, **machine("0::/user.slice\n")) == ()
