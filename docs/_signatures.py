"""The signatures that Equinox makes, and legible types: griffe makes neither."""

import ast
import dataclasses
from typing import Any

import griffe

_KIND = griffe.ParameterKind.positional_or_keyword


class Signatures(griffe.Extension):
    """Give a class the `__init__` that its fields make, and make types legible."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for every class, when the package is read."""
        if "__init__" in cls.members or cls.name.startswith("Abstract"):
            return
        fields = [field for field in cls.attributes.values() if _is_field(field)]
        if not fields or any("TypedDict" in str(base) for base in cls.bases):
            return
        parameters = [griffe.Parameter("self", kind=_KIND)]
        for field in fields:
            parameters.append(
                griffe.Parameter(
                    field.name,
                    annotation=_legible(field.annotation),
                    kind=_KIND,
                    default=_legible(_default(field)),
                )
            )
        init = griffe.Function(
            "__init__", parameters=griffe.Parameters(*parameters), parent=cls
        )
        cls.set_member("__init__", init)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Called for every function and method, when the package is read."""
        for parameter in func.parameters:
            parameter.annotation = _legible(parameter.annotation)
            parameter.default = _legible(parameter.default)
        func.returns = _legible(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for every field and constant, when the package is read."""
        attr.annotation = _legible(attr.annotation)


def _is_field(attribute: griffe.Attribute) -> bool:
    return attribute.annotation is not None and "instance-attribute" in attribute.labels


def _default(field: griffe.Attribute) -> Any:
    """The default of the field: its value, or what `eqx.field(default=...)` says."""
    value = field.value
    if not str(value).startswith("eqx.field("):
        return value
    call = ast.parse(str(value), mode="eval").body
    assert isinstance(call, ast.Call)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return given.get("default")


def _legible(expression: Any) -> Any:
    """The expression with quoted shapes, and with what our names of types stand for."""
    if isinstance(expression, list | tuple):
        return type(expression)([_legible(part) for part in expression])
    if not isinstance(expression, griffe.Expr):
        return expression
    if isinstance(expression, griffe.ExprName):
        return _meaning(expression)
    changed = {
        field.name: _legible(getattr(expression, field.name))
        for field in dataclasses.fields(expression)
        if field.name != "parent"
    }
    expression = dataclasses.replace(expression, **changed)
    return _with_quoted_shape(expression)


def _meaning(name: griffe.ExprName) -> Any:
    """What a name stands for, where it is an alias or a constant that has no page."""
    if not isinstance(name.parent, griffe.Object):  # the last part of `jnp.ndarray`
        return name
    try:
        found = name.parent.modules_collection[name.canonical_path]
    except KeyError:  # of another package
        return name
    # What the package exports has an entry of its own. A `TypeVar` is a call.
    exported = found.name in found.package.members
    value = found.value if found.is_attribute and found.parent.is_module else None
    if exported or value is None or isinstance(value, griffe.ExprCall):
        return name
    return _legible(value)


def _with_quoted_shape(expression: griffe.Expr) -> griffe.Expr:
    """`Float[Array, "n"]`: griffe reads `n` as a forward reference."""
    if (
        isinstance(expression, griffe.ExprSubscript)
        and expression.canonical_path.startswith("jaxtyping.")
        and isinstance(expression.slice, griffe.ExprTuple)
    ):
        array, shape = expression.slice.elements
        quoted = '"' + str(shape).strip("'\"").strip() + '"'
        elements = griffe.ExprTuple([array, quoted], implicit=expression.slice.implicit)
        return dataclasses.replace(expression, slice=elements)
    return expression
