"""YAML text to plain data, with the line of every part, and with limits set before anything is built."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from runyard_core.errors import InvalidInput

try:
    from yaml import CSafeLoader as _Loader
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

TEXT_BYTES_MAX = 1 << 20
DEPTH_MAX = 32
NODE_COUNT_MAX = 50_000
"""Parts of a file after its aliases are followed: what a small file could otherwise blow up to."""

Path = Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class DuplicateKey:
    """A key that a mapping has twice; YAML keeps the last."""

    key: str
    line: int


class Document:
    """Parsed YAML: the data, and where each part of it stands."""

    def __init__(
        self, file_name: str, root: Node | None, data: object, duplicate_keys: Sequence[DuplicateKey]
    ) -> None:
        """Keep what ``parse_document`` made."""
        self.file_name = file_name
        self.data = data
        self.duplicate_keys = tuple(duplicate_keys)
        self._root = root

    def line_of(self, path: Path) -> int:
        """Give the line (from 1) of a part, by its keys and indices; of the nearest part above if missing.

        The line of a key's value is the line of the key.
        """
        node = self._root
        line = node.start_mark.line + 1 if node is not None else 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


def parse_document(text: str | bytes, file_name: str) -> Document:
    """Parse one YAML document.

    Raises:
        InvalidInput: ``CONFIG_TOO_LARGE`` or ``CONFIG_SYNTAX``, with file and line.
    """
    content = text.encode() if isinstance(text, str) else text
    if len(content) > TEXT_BYTES_MAX:
        raise InvalidInput(
            f"{file_name}: {len(content):,} bytes, at most {TEXT_BYTES_MAX:,}: keep data out of it",
            code="CONFIG_TOO_LARGE",
        )
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{file_name}:{line}: not UTF-8; save it as UTF-8", code="CONFIG_SYNTAX") from None
    try:
        _check_shape(decoded, file_name)
        loader = _Loader(decoded)
        try:
            root = loader.get_single_node()
            if root is not None:
                _check_expansion(root, file_name)
            # Before construction, which folds merge keys ("<<") into the nodes.
            duplicates = list(_duplicate_keys(root))
            data = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _syntax_error(error, file_name) from None
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{file_name}: {error}; quote the value", code="CONFIG_SYNTAX") from None
    return Document(file_name, root, data, duplicates)


def _check_shape(text: str, file_name: str) -> None:
    """Count depth and nodes on the flat stream of events: the composer would recurse without a limit."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX or count > NODE_COUNT_MAX * 2:
            what = f"nested over {DEPTH_MAX} deep" if depth > DEPTH_MAX else f"over {NODE_COUNT_MAX:,} parts"
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            raise InvalidInput(f"{file_name}:{line}: {what}; simplify it", code="CONFIG_TOO_LARGE")


def _check_expansion(root: Node, file_name: str) -> None:
    """Refuse aliases that multiply to too much or lead back to themselves."""
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def measure(node: Node) -> tuple[int, int]:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise too_large(node, "an alias leads back to itself")
        open_nodes.add(id(node))
        children = [measure(child) for child in _children(node)]
        open_nodes.discard(id(node))
        count = 1 + sum(count for count, _ in children)
        depth = 1 + max((depth for _, depth in children), default=0)
        if count > NODE_COUNT_MAX or depth > DEPTH_MAX:
            raise too_large(node, "aliases make it too large")
        sizes[id(node)] = count, depth
        return count, depth

    def too_large(node: Node, what: str) -> InvalidInput:
        line = node.start_mark.line + 1
        return InvalidInput(f"{file_name}:{line}: {what}; write the parts out", code="CONFIG_TOO_LARGE")

    measure(root)


def _syntax_error(error: yaml.YAMLError, file_name: str) -> InvalidInput:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{file_name}:{mark.line + 1}" if mark is not None else file_name
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    advice = "check the indentation of this line and the one above"
    if "token" in problem or "control" in problem:
        advice = "indent with spaces, and quote text that begins with a special sign"
    return InvalidInput(f"{where}: not valid YAML: {problem}; {advice}", code="CONFIG_SYNTAX")


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, SequenceNode):
        yield from node.value


def _duplicate_keys(root: Node | None) -> Iterator[DuplicateKey]:
    for node in _walk(root):
        if not isinstance(node, MappingNode):
            continue
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                yield DuplicateKey(key.value, key.start_mark.line + 1)
            seen.add(key.value)


def _walk(node: Node | None) -> Iterator[Node]:
    waiting = [node] if node is not None else []
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting.extend(reversed(list(_children(each))))


def _child(node: Node | None, step: Hashable) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in reversed(node.value):
            if isinstance(key, ScalarNode) and key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        child = node.value[step]
        return child.start_mark.line + 1, child
    return None
