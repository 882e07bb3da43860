"""The signatures that Equinox makes: griffe knows those of dataclasses alone."""

import ast
from typing import Any

import griffe

_KIND = griffe.ParameterKind.positional_or_keyword


class Signatures(griffe.Extension):
    """Give a class without an `__init__` the one that its fields make."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for every class, when its members are known."""
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
                    annotation=field.annotation,
                    kind=_KIND,
                    default=_default(field),
                )
            )
        init = griffe.Function(
            "__init__", parameters=griffe.Parameters(*parameters), parent=cls
        )
        cls.set_member("__init__", init)


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
