"""What differs between two runs, for people and programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from runyard.record.v1.record_service_pb2 import GetRecordRequest, Record
from runyard_cli.comparison import BOXES, Compared, Difference
from runyard_cli.output import Style, safe, styled
from runyard_cli.words import run_name
from runyard_client import Client
from runyard_client.checkout import read_tree

_LABEL_COLUMNS = 20
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b")


async def get_record(client: Client, name: str) -> Record:
    """Get the record of a run by the name that the scheduler takes."""
    return (await client.records.GetRecord(GetRecordRequest(name=name))).record


async def compared(client: Client, first: Record, second: Record) -> tuple[Compared, Compared]:
    """Add the files of their code to two records; where it is the same one none are needed."""
    trees = [each.code.tree_sha256 for each in (first, second)]
    if trees[0] == trees[1]:
        return Compared(first, {}), Compared(second, {})
    files = [
        {entry.path: entry.sha256 for entry in await read_tree(client, tree)} if tree else {}
        for tree in trees
    ]
    return Compared(first, files[0]), Compared(second, files[1])


def difference_lines(found: Iterable[Difference]) -> Iterator[str]:
    """Write differences, box by box."""
    for box, group in groupby(found, key=lambda each: each.box):
        number = f"{BOXES.index(box) + 1:>2}" if box in BOXES else "  "
        label = styled(f"{number} {box:<{_LABEL_COLUMNS - 3}}", Style.BOLD)
        for index, each in enumerate(group):
            words = f"{each.name}: {each.first or '-'} -> {each.second or '-'}"
            yield (" " * _LABEL_COLUMNS if index else label) + safe(_HASH.sub(r"\1", words))


def difference_object(first: Record, second: Record, found: Sequence[Difference]) -> dict[str, object]:
    """Give differences as JSON has them."""
    return {
        "first": {"run": run_name(first.run), "run_id": first.run.run_id},
        "second": {"run": run_name(second.run), "run_id": second.run.run_id},
        "differences": [asdict(each) for each in found],
    }
