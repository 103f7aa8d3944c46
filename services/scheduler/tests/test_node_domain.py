"""Given-when-then on streams node-<id> and project-<name>."""

from __future__ import annotations

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard.node.v1 import events_pb2 as ev
from runyard.run.v1 import events_pb2 as run_ev
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_scheduler.domain import node as domain
from runyard_scheduler.domain.node import NODE
from runyard_scheduler.domain.project import PROJECT, NumberRun
from runyard_testkit import given

from .yard import an_inventory

ID = NodeId("node-1")
ENROLLED = ev.NodeEnrolled(node_id=ID, inventory=an_inventory())
ATTACHED = ev.NodeAttached(node_id=ID, boot_id="boot-1")
ATTACH = domain.Attach(ID, an_inventory())


def reserve(lease: str = "lease-1", *gpu_uuids: str) -> domain.Reserve:
    return domain.Reserve(LeaseId(lease), RunId("run"), 1, gpu_uuids, "digits")


def reserved(lease: str = "lease-1", *gpu_uuids: str) -> ev.NodeGpusReserved:
    return ev.NodeGpusReserved(
        node_id=ID,
        lease_id=lease,
        run_id="run",
        attempt=1,
        gpu_uuids=gpu_uuids,
        project="digits",
        gpu_models=["H200"] * len(gpu_uuids),
    )


def test_a_new_node_enrols_and_attaches() -> None:
    given(NODE).when(ATTACH).then(ENROLLED, ATTACHED)


def test_a_node_that_is_attached_attaches_again_without_an_event() -> None:
    given(NODE, ENROLLED, ATTACHED).when(ATTACH).then_nothing()


def test_a_node_comes_back_and_a_reboot_shows() -> None:
    detached = ev.NodeDetached(node_id=ID, reason="silent", silent_milliseconds=10_000)
    silent = domain.Detach("silent", 10_000)
    scenario = given(NODE, ENROLLED, ATTACHED).when(silent).then(detached)
    scenario.when(silent).then_nothing()
    scenario.when(ATTACH).then(ATTACHED)
    rebooted = domain.Attach(ID, an_inventory(boot_id="boot-2"))
    given(NODE, ENROLLED, ATTACHED).when(rebooted).then(ev.NodeAttached(node_id=ID, boot_id="boot-2"))


def test_a_changed_inventory_is_recorded_but_free_disk_is_not_a_change() -> None:
    fuller = an_inventory()
    fuller.disk_free_bytes = 5
    given(NODE, ENROLLED, ATTACHED).when(domain.ChangeInventory(fuller)).then_nothing()
    smaller = an_inventory(gpu_count=1)
    given(NODE, ENROLLED, ATTACHED).when(domain.ChangeInventory(smaller)).then(
        ev.NodeInventoryChanged(node_id=ID, inventory=smaller)
    )


def test_a_lease_holds_gpus_and_a_slot_until_it_lets_go() -> None:
    scenario = (
        given(NODE, ENROLLED, ATTACHED).when(reserve("lease-1", "GPU-0")).then(reserved("lease-1", "GPU-0"))
    )
    assert scenario.state.free_gpu_uuids == ("GPU-1",)
    assert scenario.state.free_slot_count == 3
    released = ev.NodeGpusReleased(
        node_id=ID, lease_id="lease-1", run_id="run", attempt=1, gpu_uuids=["GPU-0"]
    )
    scenario = scenario.when(domain.Release(LeaseId("lease-1"))).then(released)
    assert scenario.state.free_gpu_uuids == ("GPU-0", "GPU-1")
    scenario.when(domain.Release(LeaseId("lease-1"))).then_nothing()


def test_a_gpu_is_never_leased_twice() -> None:
    held = given(NODE, ENROLLED, ATTACHED, reserved("lease-1", "GPU-0"))
    held.when(reserve("lease-2", "GPU-0", "GPU-1")).then_rejected("GPU_TAKEN")
    held.when(reserve("lease-2", "GPU-9")).then_rejected("GPU_TAKEN")
    held.when(reserve("lease-1", "GPU-0")).then_nothing()


def test_no_more_attempts_than_slots() -> None:
    full = given(NODE, ENROLLED, ATTACHED, *(reserved(f"lease-{index}") for index in range(4)))
    full.when(reserve("lease-9")).then_rejected("NO_FREE_SLOT")


def test_a_node_that_never_came_can_do_nothing() -> None:
    given(NODE).when(reserve()).then_rejected("NODE_NOT_FOUND")


def test_a_foreign_process_is_recorded() -> None:
    seen = ForeignProcess(gpu_uuid="GPU-0", pid=7, process_name="python", memory_bytes=1)
    event = ev.NodeForeignProcessSeen(
        node_id=ID, gpu_uuid="GPU-0", pid=7, process_name="python", memory_bytes=1
    )
    given(NODE, ENROLLED, ATTACHED).when(domain.SeeForeignProcess(seen)).then(event)


def test_a_project_is_created_with_its_first_run_and_counts_on() -> None:
    created = run_ev.ProjectCreated(project="digits")
    first = run_ev.ProjectRunNumbered(project="digits", run_id="a", number=1)
    second = run_ev.ProjectRunNumbered(project="digits", run_id="b", number=2)
    scenario = given(PROJECT).when(NumberRun("digits", RunId("a"))).then(created, first)
    scenario.when(NumberRun("digits", RunId("b"))).then(second)
