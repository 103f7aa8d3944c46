"""Prices tried on recorded leases."""

from __future__ import annotations

from typing import cast

from runyard.history.v1.history_service_pb2 import PriceAgainRequest, PriceAgainResponse, RepricedRun
from runyard_cli.history.source import Source
from runyard_cli.history.whatif import all_priced_again

RUNS = [RepricedRun(run_id=run_id) for run_id in ("c", "b", "a")]


class PagesOfOne:
    """Answers with a run at a time, as of one position."""

    async def price_again(self, request: PriceAgainRequest) -> PriceAgainResponse:
        first = request.runs_skipped
        assert request.as_of.position == (7 if first else 0)
        return PriceAgainResponse(
            position=7,
            runs=RUNS[first : first + 1],
            recorded_micro_usd=3,
            has_more_runs=first + 1 < len(RUNS),
        )


async def test_every_page_of_runs_is_asked_for() -> None:
    answer = await all_priced_again(cast("Source", PagesOfOne()), PriceAgainRequest(project="digits"))
    assert (list(answer.runs), answer.has_more_runs) == (RUNS, False)
    assert answer.recorded_micro_usd == 3
