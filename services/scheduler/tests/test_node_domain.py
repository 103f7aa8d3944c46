"""Given-when-then on streams node-<id> and project-<name>."""

from __future__ import annotations

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard.node.v1 import events_pb2 as ev
from runyard.run.v1 import events_pb2 as run_ev
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_scheduler.domain import node as domain
from runyard_scheduler.domain.node import NODE
from runyard_scheduler.domain.placement import Supply
from runyard_scheduler.domain.project import PROJECT, NumberRun, RemoveSecret, SetSecret
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
    process = ForeignProcess(gpu_uuid="GPU-0", pid=7, process_name="python", memory_bytes=1)
    event = ev.NodeForeignProcessSeen(
        node_id=ID, gpu_uuid="GPU-0", pid=7, process_name="python", memory_bytes=1
    )
    given(NODE, ENROLLED, ATTACHED).when(domain.SeeForeignProcess(process)).then(event)


def seen(gpu_uuid: str, pid: int, *, gone: bool = False) -> ev.NodeForeignProcessSeen:
    return ev.NodeForeignProcessSeen(node_id=ID, gpu_uuid=gpu_uuid, pid=pid, gone=gone)


def test_a_gpu_is_used_by_others_until_the_last_of_them_is_gone() -> None:
    two = given(NODE, ENROLLED, ATTACHED, seen("GPU-0", 7), seen("GPU-0", 8), seen("GPU-0", 7, gone=True))
    assert two.state.foreign_gpu_uuids == {"GPU-0"}
    assert Supply.of(two.state, attached=True).free_gpu_uuids == ("GPU-1",)
    none = given(NODE, ENROLLED, ATTACHED, seen("GPU-0", 7), seen("GPU-0", 7, gone=True))
    assert Supply.of(none.state, attached=True).free_gpu_uuids == ("GPU-0", "GPU-1")


def test_a_gpu_that_its_agent_calls_unusable_is_free_for_nobody_until_it_is_back() -> None:
    lost, back = an_inventory(gpu_count=2), an_inventory(gpu_count=2)
    lost.gpus[0].unusable_reason = "it does not answer"
    (changed,) = given(NODE, ENROLLED, ATTACHED).when(domain.ChangeInventory(lost)).events
    supply = Supply.of(given(NODE, ENROLLED, ATTACHED, changed, seen("GPU-0", 7)).state, attached=True)
    assert (supply.free_gpu_uuids, supply.unusable_gpu_count, supply.foreign_gpu_count) == (("GPU-1",), 1, 0)
    again = ev.NodeInventoryChanged(node_id=ID, inventory=back)
    state = given(NODE, ENROLLED, ATTACHED, changed, again).state
    assert Supply.of(state, attached=True).free_gpu_uuids == ("GPU-0", "GPU-1")


def test_a_reboot_ends_the_processes_of_others_and_a_new_agent_does_not() -> None:
    held = (ENROLLED, ATTACHED, seen("GPU-0", 7))
    restarted = ev.NodeAttached(node_id=ID, boot_id="boot-1", agent_version="2")
    rebooted = ev.NodeAttached(node_id=ID, boot_id="boot-2")
    changed = ev.NodeInventoryChanged(node_id=ID, inventory=an_inventory(gpu_count=3, boot_id="boot-2"))
    assert given(NODE, *held, restarted).state.foreign_gpu_uuids == {"GPU-0"}
    assert given(NODE, *held, rebooted).state.foreign_gpu_uuids == set()
    assert given(NODE, *held, changed, rebooted).state.foreign_gpu_uuids == set()


def test_a_project_is_created_with_its_first_run_and_counts_on() -> None:
    created = run_ev.ProjectCreated(project="digits")
    first = run_ev.ProjectRunNumbered(project="digits", run_id="a", number=1)
    second = run_ev.ProjectRunNumbered(project="digits", run_id="b", number=2)
    scenario = given(PROJECT).when(NumberRun("digits", RunId("a"))).then(created, first)
    scenario.when(NumberRun("digits", RunId("b"))).then(second)


def test_who_changes_a_secret_is_told_by_name_and_the_count_of_runs_goes_on() -> None:
    created = run_ev.ProjectCreated(project="digits")
    set_secret = run_ev.ProjectSecretSet(project="digits", name="HF_TOKEN")
    replaced = run_ev.ProjectSecretSet(project="digits", name="HF_TOKEN", replaced=True)
    removed = run_ev.ProjectSecretRemoved(project="digits", name="HF_TOKEN")
    scenario = given(PROJECT).when(SetSecret("digits", "HF_TOKEN", replaced=False)).then(created, set_secret)
    scenario = scenario.when(SetSecret("digits", "HF_TOKEN", replaced=True)).then(replaced)
    scenario = scenario.when(RemoveSecret("digits", "HF_TOKEN")).then(removed)
    first = run_ev.ProjectRunNumbered(project="digits", run_id="a", number=1)
    scenario.when(NumberRun("digits", RunId("a"))).then(first)
