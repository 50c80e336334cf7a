"""Mutants of a module: a file in, its syntax tree with one place changed by rule out.

Some places never change, as no test need notice: texts (docstrings, messages, all strings), what is
raised, printed or warned, asserts (with zip's `strict`), imports, annotations, aliases of types and
decorators.
"""

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
PAIRS = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("floor", "ceil"),
    ("sum", "mean"),
    ("zeros", "ones"),
    ("square", "abs"),
    ("sin", "cos"),
)
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}
"""Functions and methods, each called in place of the other."""

TOLD = {"print", "warn", "warning", "info", "debug", "log"}
"""Calls that print or log."""

Place = tuple[ast.AST, str, int | None]
"""A node, its field, and where in it if that is a list."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        path: of the file.
        rule: that made it.
        function: qualified name of the function or class that holds the change, or `<module>`.
        line: of the change.
        lines: first and last of the function, or of the file outside of all.
        tree: the changed module.
        diff: lines taken out and put in, in the syntax tree's own layout.
    """

    path: Path
    rule: str
    function: str
    line: int
    lines: tuple[int, int]
    tree: ast.Module
    diff: str

    @property
    def title(self) -> str:
        """Tells it from others, also after lines were moved."""
        change = " ".join(self.diff.split())
        return f"{self.path.parent.name}/{self.path.name} {self.function} {change}"


def count_of(path: Path) -> int:
    """Return how many mutants a file has."""
    return sum(1 for _ in _changes(ast.parse(path.read_text()), "", (1, 1), set()))


def make(path: Path, number: int) -> Mutant:
    """Return one of a file's mutants, `number` in [0, count)."""
    text = path.read_text()
    tree = ast.parse(text)
    before = ast.unparse(tree).splitlines()
    changes = _changes(tree, "", (0, len(text.splitlines())), set())
    function, span, rule, (node, field, index), new = next(islice(changes, number, None))
    old = getattr(node, field) if index is None else getattr(node, field)[index]
    line = getattr(old, "lineno", getattr(node, "lineno", span[0]))
    _put(node, field, index, new)
    after = ast.unparse(tree).splitlines()
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    diff = "\n".join(text for text in lines if not text.startswith("@@"))
    return Mutant(path, rule, function or "<module>", line, span, tree, diff)


def _put(node: ast.AST, field: str, index: int | None, value: object) -> None:
    if index is None:
        setattr(node, field, value)
    else:
        getattr(node, field)[index] = value


Change = tuple[str, tuple[int, int], str, Place, object]


def _changes(
    node: ast.AST, function: str, span: tuple[int, int], known: set[str]
) -> Iterator[Change]:
    """Give every change below a node: where it is, the rule, and what is put there."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        several = value if isinstance(value, list) else [value]
        for number, child in enumerate(several):
            if not isinstance(child, ast.AST) or _left_alone(child):
                continue
            place = (node, field, number if isinstance(value, list) else None)
            inner, where, names = _scope(child, function, span, known)
            for rule, new in _of_one(child, node, field, names):
                yield function, span, rule, place, new
            for rule, attribute, index, new in _inside(child):
                yield function, span, rule, (child, attribute, index), new
            yield from _changes(child, inner, where, names)
            # in this scope, the names are known from here on
            for inner_node in ast.walk(child):
                if isinstance(inner_node, ast.Name) and isinstance(inner_node.ctx, ast.Store):
                    names.add(inner_node.id)


def _scope(
    node: ast.AST, function: str, span: tuple[int, int], known: set[str]
) -> tuple[str, tuple[int, int], set[str]]:
    """Return the qualified name, the lines and the known names inside a node."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return function, span, known
    name = f"{function}.{node.name}".lstrip(".")
    if isinstance(node, ast.ClassDef):
        return name, span, set()
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    arguments = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
    return name, (first, node.end_lineno or first), arguments


def _left_alone(node: ast.AST) -> bool:
    """Return True for what only people or the type checker read."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        is_type = isinstance(node.value, ast.Subscript) and name[0].isupper() and not name.isupper()
        return is_type or name == "__all__"
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).split(".")[-1] in TOLD
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")


def _of_one(
    node: ast.AST, parent: ast.AST, field: str, known: set[str]
) -> Iterator[tuple[str, ast.AST]]:
    """Give what replaces a whole node, with the rule."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        new = {0: 1, 1: 0}.get(node.value, node.value + 1)
        yield "constant", ast.Constant(type(node.value)(new))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not dropped", node.operand
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "minus dropped", node.operand
    elif _is_removable(node, known):
        yield "statement removed", ast.Pass()
    elif isinstance(node, ast.Slice) and (node.lower is None) != (node.upper is None):
        yield "first and last", ast.Slice(node.upper, node.lower, node.step)
    elif isinstance(node, ast.Break):
        yield "break and continue", ast.Continue()
    elif isinstance(node, ast.Continue):
        yield "break and continue", ast.Break()
    is_negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    # of a negated condition, the rule "not dropped" makes the same mutant
    if field in ("test", "ifs") and not is_negated:
        yield "condition negated", ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.BinOp) and field == "value" and isinstance(parent, ast.Return):
        yield "operand returned", node.left
    if field == "value" and isinstance(parent, ast.Return) and not isinstance(node, ast.Constant):
        yield "nothing returned", ast.Constant(None)


def _inside(node: ast.AST) -> Iterator[tuple[str, str, int | None, object]]:
    """Give the changes of a node's own fields: (rule, field, index, new value)."""
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            yield "comparison", "ops", number, COMPARISONS[type(operator)]()
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        if not any(_is_text(side) for side in ast.iter_child_nodes(node)):
            yield "arithmetic", "op", None, ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        yield "and and or", "op", None, ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.Call):
        for number, keyword in enumerate(node.keywords):
            if keyword.arg not in (None, "strict"):
                rest = [*node.keywords[:number], *node.keywords[number + 1 :]]
                yield "keyword dropped", "keywords", None, rest
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if name in NAMES:
            function = copy.deepcopy(node.func)
            setattr(function, "attr" if isinstance(function, ast.Attribute) else "id", NAMES[name])
            yield "other function", "func", None, function


def _is_text(node: ast.AST) -> bool:
    """Return True for a text: + and / join texts and paths, other operators fail at once."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_removable(node: ast.AST, known: set[str]) -> bool:
    """Return True if a statement changes what exists.

    Without a statement that makes a new name, the next use of the name fails at once.
    """
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    if not isinstance(node, ast.Assign):
        return isinstance(node, ast.AugAssign)
    if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        return True
    names = {part.id for part in ast.walk(node.targets[0]) if isinstance(part, ast.Name)}
    return bool(names & known)
