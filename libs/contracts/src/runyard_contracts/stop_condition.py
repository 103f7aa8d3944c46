"""What a stop condition may say: an expression over metrics, such as ``loss < 0.1 and epoch > 3``.

Names (also dotted ones, and such as Python keeps for itself: ``lambda``), numbers, texts, None, comparisons,
``in`` a tuple or a set, ``is None``, ``and``, ``or``, ``not`` and arithmetic: what the parser of the run
contract's files lets pass, without calls. Nothing else of Python is there, so that no expression can call,
reach or exhaust anything. Who writes one and who evaluates it ask here.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Iterator

LENGTH_MAX = 1000
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn)

_KEYWORDS = frozenset({"False", "None", "True", "and", "or", "not", "in", "is", "for"})
_KEPT_NAME = "runyard_name_"
_CONTAINERS = (ast.Tuple, ast.Set)


def parse_stop_condition(text: str) -> ast.expr:
    """Read an expression; what it holds is known then to be harmless.

    Raises:
        ValueError: it is none, or more than this knows; the message says what.
    """
    if len(text) > LENGTH_MAX:
        raise ValueError(f"it is longer than {LENGTH_MAX} characters")
    try:
        expression = ast.parse(_with_names(text.strip()), mode="eval").body
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error
    for part in ast.walk(expression):
        _check(part)
    _check_places(expression)
    return expression


def name_of(node: ast.expr) -> str | None:
    """Give the metric that a part of an expression names; None for any other part."""
    match node:
        case ast.Name(id=name):
            return name.removeprefix(_KEPT_NAME)
        case ast.Attribute(value=owner, attr=attribute) if (first := name_of(owner)) is not None:
            return f"{first}.{attribute.removeprefix(_KEPT_NAME)}"
        case _:
            return None


def _with_names(text: str) -> str:
    """Let metrics have names that Python keeps for itself."""
    return tokenize.untokenize(_kept(text)).strip()


def _kept(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_kept = keyword.iskeyword(token.string) and token.string not in _KEYWORDS
        yield token.type, _KEPT_NAME + token.string if is_kept else token.string


def _check(part: ast.AST) -> None:
    match part:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            if isinstance(value, int) and abs(value) > 2**1000:
                raise ValueError("a number is too large")
        case (
            ast.Name()
            | ast.BoolOp()
            | ast.Compare()
            | ast.expr_context()
            | ast.boolop()
            | ast.Tuple()
            | ast.Set()
        ):
            pass
        case ast.Attribute() if name_of(part) is not None:
            pass
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()) | ast.Not() | ast.USub() | ast.UAdd():
            pass
        case ast.BinOp(op=op) if isinstance(op, ARITHMETIC):
            pass
        case ast.operator() if isinstance(part, ARITHMETIC):
            pass
        case ast.cmpop() if isinstance(part, COMPARISONS):
            pass
        case _:
            raise ValueError(f"{type(part).__name__} is not known here")


def _check_places(expression: ast.expr) -> None:
    """Hold that tuples and sets are only looked into."""
    looked_into = {
        id(operand)
        for part in ast.walk(expression)
        if isinstance(part, ast.Compare)
        for operator, operand in zip(part.ops, part.comparators, strict=True)
        if isinstance(operator, ast.In | ast.NotIn)
    }
    for part in ast.walk(expression):
        if isinstance(part, _CONTAINERS) and id(part) not in looked_into:
            raise ValueError('a tuple or set may only stand behind "in"')
