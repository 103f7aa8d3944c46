from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.cost.v1.types_pb2 import PriceUnit
from runyard_replay.pricing import explanation
from runyard_replay.pricing.explanation import cost_of, duration_text, money_text
from runyard_replay.pricing.leases import (
    HOUR_MS,
    WHOLE_PPM,
    HeldGpu,
    Lease,
    Term,
    apportion,
    divide_half_even,
    price_node,
)
from runyard_replay.pricing.price_book import PriceBook, PriceLine

GPU_HOUR = PriceUnit.PRICE_UNIT_GPU_HOUR
NODE_HOUR = PriceUnit.PRICE_UNIT_NODE_HOUR
NODE = "node-1"
GPU_A = HeldGpu("GPU-a", "H100")
GPU_B = HeldGpu("GPU-b", "H100")
GPU_C = HeldGpu("GPU-c", "L4")
LATER = 100 * HOUR_MS


def line(
    price_id: str,
    unit: PriceUnit.ValueType,
    micro_usd: int,
    *,
    node: str = "",
    model: str = "",
    at_ms: int = 0,
    position: int = 1,
) -> PriceLine:
    return PriceLine(price_id, node, model, unit, micro_usd, at_ms, position, f"event-{price_id}")


def lease(name: str, start_ms: int, end_ms: int | None, *gpus: HeldGpu) -> Lease:
    events = (f"reserved-{name}",) if end_ms is None else (f"reserved-{name}", f"released-{name}")
    return Lease(name, f"run-{name}", 1, NODE, gpus, start_ms, end_ms, events)


def priced(leases: Sequence[Lease], *lines: PriceLine, horizon_ms: int = LATER) -> dict[str, Sequence[Term]]:
    return dict(price_node(NODE, leases, PriceBook(lines), horizon_ms))


def money(terms: Sequence[Term]) -> int:
    return sum(term.micro_usd for term in terms)


def test_a_gpu_hour_costs_its_price() -> None:
    [term] = priced([lease("a", 0, HOUR_MS, GPU_A)], line("p", GPU_HOUR, 2_500_000))["a"]
    assert term.micro_usd == 2_500_000
    assert (term.gpu, term.share_ppm, term.is_running) == (GPU_A, WHOLE_PPM, False)


def test_each_gpu_of_a_lease_is_a_term() -> None:
    terms = priced([lease("a", 0, HOUR_MS, GPU_A, GPU_C)], line("p", GPU_HOUR, 1_000))["a"]
    assert [term.gpu for term in terms] == [GPU_A, GPU_C]


def test_the_node_beats_the_model_and_the_model_the_default() -> None:
    default = line("default", GPU_HOUR, 1)
    model = line("model", GPU_HOUR, 2, model="H100")
    node = line("node", GPU_HOUR, 3, node=NODE)
    other = line("other", GPU_HOUR, 4, node="node-2")
    a = [lease("a", 0, HOUR_MS, GPU_A)]
    assert priced(a, default, other)["a"][0].price == default
    assert priced(a, default, model, other)["a"][0].price == model
    assert priced(a, default, model, node, other)["a"][0].price == node
    assert priced([lease("c", 0, HOUR_MS, GPU_C)], default, model)["c"][0].price == default


def test_a_price_holds_from_its_time_on() -> None:
    old = line("old", GPU_HOUR, 1_000_000)
    new = line("new", GPU_HOUR, 3_000_000, at_ms=HOUR_MS, position=2)
    terms = priced([lease("a", 0, 2 * HOUR_MS, GPU_A)], old, new)["a"]
    assert [(term.price, term.start_ms, term.end_ms) for term in terms] == [
        (old, 0, HOUR_MS),
        (new, HOUR_MS, 2 * HOUR_MS),
    ]
    assert money(terms) == 4_000_000


def test_a_later_event_for_the_same_time_restates_the_past() -> None:
    wrong = line("wrong", GPU_HOUR, 9_000_000, position=1)
    right = line("right", GPU_HOUR, 1_000_000, position=2)
    [term] = priced([lease("a", 0, HOUR_MS, GPU_A)], right, wrong)["a"]
    assert term.price == right


def test_a_later_event_for_an_earlier_time_restates_up_to_the_next_line() -> None:
    first = line("first", GPU_HOUR, 1, at_ms=0, position=1)
    last = line("last", GPU_HOUR, 2, at_ms=3 * HOUR_MS, position=2)
    between = line("between", GPU_HOUR, 3, at_ms=HOUR_MS, position=3)
    terms = priced([lease("a", 0, 4 * HOUR_MS, GPU_A)], first, last, between)["a"]
    assert [term.price for term in terms] == [first, between, last]


def test_time_before_the_first_price_is_unpriced() -> None:
    terms = priced([lease("a", 0, 2 * HOUR_MS, GPU_A)], line("p", GPU_HOUR, 5, at_ms=HOUR_MS))["a"]
    assert [term.price for term in terms] == [None, line("p", GPU_HOUR, 5, at_ms=HOUR_MS)]
    cost = cost_of(terms)
    assert cost.has_unpriced_time
    assert cost.terms[0].explanation == "1 h of GPU H100 on node-1: no price is set for it"
    assert cost.terms[0].price_id == ""


def test_a_node_is_split_by_gpus_held_and_cut_where_the_sharing_changes() -> None:
    leases = [lease("a", 0, 2 * HOUR_MS, GPU_A), lease("b", HOUR_MS, 3 * HOUR_MS, GPU_B, GPU_C)]
    terms = priced(leases, line("n", NODE_HOUR, 3_000_000, node=NODE))
    assert [(term.start_ms, term.share_ppm) for term in terms["a"]] == [(0, WHOLE_PPM), (HOUR_MS, 333_333)]
    assert [(term.start_ms, term.share_ppm) for term in terms["b"]] == [
        (HOUR_MS, 666_667),
        (2 * HOUR_MS, WHOLE_PPM),
    ]
    assert money(terms["a"]) + money(terms["b"]) == 9_000_000


def test_a_node_without_gpus_is_split_by_slots() -> None:
    leases = [lease("a", 0, HOUR_MS), lease("b", 0, HOUR_MS)]
    terms = priced(leases, line("n", NODE_HOUR, 1_000_000))
    assert [term.share_ppm for name in "ab" for term in terms[name]] == [500_000, 500_000]
    [message] = cost_of(terms["a"]).terms
    assert message.explanation == (
        "1 h of node-1 at $1.00 an hour, 50 % of it as one of 2 runs on the node: $0.50"
    )
    assert list(message.event_ids) == ["reserved-a", "released-a", "event-n", "reserved-b", "released-b"]


def test_gpu_hours_do_not_apply_to_what_holds_no_gpu() -> None:
    a = [lease("a", 0, HOUR_MS)]
    [unpriced] = priced(a, line("g", GPU_HOUR, 7))["a"]
    assert unpriced.price is None
    [term] = priced(a, line("g", GPU_HOUR, 7, node=NODE), line("n", NODE_HOUR, 5))["a"]
    assert term.price == line("n", NODE_HOUR, 5)


def test_gpus_with_a_price_of_their_own_keep_their_part_of_the_node() -> None:
    lines = (line("g", GPU_HOUR, 7_000_000, model="L4"), line("n", NODE_HOUR, 4_000_000))
    terms = priced([lease("a", 0, HOUR_MS, GPU_A), lease("c", 0, HOUR_MS, GPU_C)], *lines)
    assert [(term.gpu, term.micro_usd) for term in terms["a"]] == [(None, 2_000_000)]
    assert [(term.gpu, term.micro_usd) for term in terms["c"]] == [(GPU_C, 7_000_000)]


def test_a_running_lease_is_priced_up_to_the_moment_asked_for() -> None:
    running = [lease("a", 0, None, GPU_A)]
    [term] = priced(running, line("p", GPU_HOUR, 1_000_000), horizon_ms=HOUR_MS // 2)["a"]
    assert (term.end_ms, term.is_running, term.micro_usd) == (HOUR_MS // 2, True, 500_000)
    assert cost_of([term]).terms[0].explanation.endswith("$0.50 so far")
    ended = [lease("a", 0, 2 * HOUR_MS, GPU_A)]
    [before] = priced(ended, line("p", GPU_HOUR, 1_000_000), horizon_ms=HOUR_MS)["a"]
    assert (before.end_ms, before.is_running) == (HOUR_MS, True)


def test_a_lease_that_ends_before_it_began_costs_nothing() -> None:
    assert priced([lease("a", 5_000, 1_000, GPU_A)], line("p", GPU_HOUR, 1_000_000))["a"] == []
    assert priced([lease("a", 5_000, None, GPU_A)], line("p", GPU_HOUR, 1), horizon_ms=1_000)["a"] == []


def test_what_changes_for_others_does_not_cut_a_term() -> None:
    leases = [lease("a", 0, 4_000, GPU_A), lease("b", 1_000, 2_000, GPU_B)]
    lines = (line("p", GPU_HOUR, 5, model="H100"), line("later", GPU_HOUR, 9, at_ms=3_000))
    [term] = priced(leases, *lines)["a"]
    assert (term.start_ms, term.end_ms) == (0, 4_000)


def test_the_sums_of_a_cost_count_gpus_and_nodes() -> None:
    terms = priced([lease("a", 0, 90_000, GPU_A, GPU_B)], line("n", NODE_HOUR, 60_000_000))["a"]
    cost = cost_of(terms)
    assert (cost.gpu_milliseconds, cost.node_milliseconds, cost.micro_usd) == (180_000, 90_000, 1_500_000)


def test_a_cost_of_many_terms_shows_the_last_ones_and_sums_all(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = priced([lease("a", 0, None, *[GPU_A] * 5)], line("g", GPU_HOUR, 7_200_000))["a"]
    whole = cost_of(terms)
    assert (len(whole.terms), whole.left_out_term_count) == (5, 0)
    for room, shown in ((5 * whole.terms[0].ByteSize() // 2, 2), (1, 1)):
        monkeypatch.setattr(explanation, "TERMS_BYTES_MAX", room)
        cost = cost_of(terms)
        assert (list(cost.terms), cost.left_out_term_count) == (list(whole.terms[-shown:]), 5 - shown)
        assert (cost.micro_usd, cost.gpu_milliseconds) == (whole.micro_usd, whole.gpu_milliseconds)


def test_money_is_rounded_half_to_even_on_the_whole_term() -> None:
    assert [divide_half_even(n, 2) for n in (1, 3, 5)] == [0, 2, 2]
    assert [divide_half_even(n, 10) for n in (4, 5, 6, 15, 25, 26)] == [0, 0, 1, 2, 2, 3]
    half = [lease("a", 0, HOUR_MS // 2, GPU_A)]
    assert money(priced(half, line("p", GPU_HOUR, 3))["a"]) == 2
    assert money(priced(half, line("p", GPU_HOUR, 5))["a"]) == 2


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 s"),
        (12_250, "12.25 s"),
        (60_000, "1 min"),
        (3_600_000, "1 h"),
        (7_505_001, "2 h 5 min 5.001 s"),
    ],
)
def test_durations_read_well(milliseconds: int, text: str) -> None:
    assert duration_text(milliseconds) == text


@pytest.mark.parametrize(
    ("micro_usd", "text"), [(0, "$0.00"), (2_500_000, "$2.50"), (694, "$0.000694"), (10, "$0.00001")]
)
def test_money_reads_well(micro_usd: int, text: str) -> None:
    assert money_text(micro_usd) == text


moments = st.integers(min_value=0, max_value=5_000_000)
gpu_sets = st.lists(st.builds(HeldGpu, st.uuids().map(str), st.sampled_from(["H100", "L4"])), max_size=3).map(
    tuple
)


@st.composite
def lease_lists(draw: st.DrawFn) -> list[Lease]:
    leases = []
    for number in range(draw(st.integers(min_value=1, max_value=5))):
        start_ms = draw(moments)
        length_ms = draw(st.none() | st.integers(min_value=-10, max_value=5_000_000))
        end_ms = None if length_ms is None else start_ms + length_ms
        leases.append(lease(str(number), start_ms, end_ms, *draw(gpu_sets)))
    return leases


@st.composite
def price_lines(draw: st.DrawFn) -> list[PriceLine]:
    scopes = st.sampled_from([("", ""), (NODE, ""), ("", "H100"), ("", "L4")])
    lines = []
    for number in range(draw(st.integers(min_value=0, max_value=5))):
        node, model = draw(scopes)
        unit = GPU_HOUR if model else draw(st.sampled_from([GPU_HOUR, NODE_HOUR]))
        micro_usd = draw(st.integers(min_value=0, max_value=50_000_000))
        at_ms = draw(moments)
        lines.append(line(str(number), unit, micro_usd, node=node, model=model, at_ms=at_ms, position=number))
    return lines


@given(lease_lists(), price_lines(), moments)
def test_nothing_is_negative_and_terms_cover_each_lease_once(
    leases: list[Lease], lines: list[PriceLine], horizon_ms: int
) -> None:
    terms = priced(leases, *lines, horizon_ms=horizon_ms)
    for held in leases:
        own = terms[held.lease_id]
        assert all(term.micro_usd >= 0 and term.milliseconds > 0 for term in own)
        length_ms = held.end_ms(horizon_ms) - held.reserved_at_ms
        for gpu in held.gpus:
            node_ms = sum(term.milliseconds for term in own if term.gpu is None)
            gpu_ms = sum(term.milliseconds for term in own if term.gpu == gpu)
            assert gpu_ms + node_ms >= length_ms
            assert gpu_ms <= length_ms
        assert cost_of(own).node_milliseconds == length_ms


@given(lease_lists(), price_lines(), moments, moments)
def test_splitting_a_lease_anywhere_gives_the_same_total_within_rounding(
    leases: list[Lease], lines: list[PriceLine], horizon_ms: int, cut_ms: int
) -> None:
    whole = priced(leases, *lines, horizon_ms=horizon_ms)
    first, *others = leases
    end_ms = first.end_ms(horizon_ms)
    cut_ms = min(max(cut_ms, first.reserved_at_ms), end_ms)
    halves = [
        lease("left", first.reserved_at_ms, cut_ms, *first.gpus),
        lease("right", cut_ms, first.released_at_ms, *first.gpus),
    ]
    split = priced([*halves, *others], *lines, horizon_ms=horizon_ms)
    pieces = [*split["left"], *split["right"]]
    # Each term is off by half a micro-dollar at most, and by one millionth of its share.
    allowed = Fraction(len(pieces) + len(whole["0"]), 2) + sum(
        Fraction(term.price.micro_usd_per_hour * term.milliseconds, HOUR_MS * WHOLE_PPM)
        for term in pieces
        if term.price is not None and term.gpu is None
    )
    assert abs(money(pieces) - money(whole["0"])) <= allowed


@given(lease_lists(), price_lines(), moments)
def test_the_shares_of_a_node_never_sum_to_more_than_the_node(
    leases: list[Lease], lines: list[PriceLine], horizon_ms: int
) -> None:
    terms = priced(leases, *lines, horizon_ms=horizon_ms)
    node_terms = [term for own in terms.values() for term in own if term.gpu is None and term.price]
    for at_ms in {term.start_ms for term in node_terms}:
        here = [term for term in node_terms if term.start_ms <= at_ms < term.end_ms]
        assert sum(term.share_ppm for term in here) <= WHOLE_PPM


@given(lease_lists(), st.integers(min_value=0, max_value=50_000_000), moments)
def test_a_node_hour_price_is_borne_whole_while_anybody_is_there(
    leases: list[Lease], micro_usd: int, horizon_ms: int
) -> None:
    terms = priced(leases, line("n", NODE_HOUR, micro_usd), horizon_ms=horizon_ms)
    everything = [term for own in terms.values() for term in own]
    busy_ms = 0
    cuts = sorted({moment for term in everything for moment in (term.start_ms, term.end_ms)})
    for start_ms, end_ms in pairwise(cuts):
        here = [term for term in everything if term.start_ms <= start_ms < term.end_ms]
        if here:
            busy_ms += end_ms - start_ms
            assert sum(term.share_ppm for term in here) == WHOLE_PPM
    exact = Fraction(micro_usd * busy_ms, HOUR_MS)
    assert abs(money(everything) - exact) <= Fraction(len(everything), 2)


@given(st.lists(st.integers(min_value=0, max_value=10**6), max_size=9))
def test_parts_of_a_whole_sum_to_it(weights: list[int]) -> None:
    shares = apportion(weights)
    assert sum(shares) == (WHOLE_PPM if sum(weights) else 0)
    assert all(share >= 0 for share in shares)
    assert all(share == 0 for share, weight in zip(shares, weights, strict=True) if weight == 0)
