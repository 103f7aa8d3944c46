"""What a stop condition may say: an expression over metrics, such as ``loss < 0.1 and epoch > 3``.

Names, numbers, texts, comparisons, ``and``, ``or``, ``not`` and arithmetic; nothing else of Python is there,
so that no expression can call, reach or exhaust anything. Who writes one and who evaluates it ask here.
"""

from __future__ import annotations

import ast

LENGTH_MAX = 1000
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def parse_stop_condition(text: str) -> ast.expr:
    """Read an expression; what it holds is known then to be harmless.

    Raises:
        ValueError: it is none, or more than this knows; the message says what.
    """
    if len(text) > LENGTH_MAX:
        raise ValueError(f"it is longer than {LENGTH_MAX} characters")
    try:
        expression = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error
    for part in ast.walk(expression):
        _check(part)
    return expression


def _check(part: ast.AST) -> None:
    match part:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            if isinstance(value, int) and abs(value) > 2**1000:
                raise ValueError("a number is too large")
        case ast.Name() | ast.BoolOp() | ast.Compare() | ast.expr_context() | ast.boolop():
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
