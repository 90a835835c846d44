"""The type of a body as a tree: what a value may be, field by field; what of it is known.

Pure. The tree of a type is made once.
"""

from functools import cache
from typing import Any

from msgspec import inspect

_tree = cache(inspect.type_info)


def tree(shape: Any) -> inspect.Type:
    """Return the tree of a type."""
    return _tree(shape)


def alternatives(kind: inspect.Type) -> list[inspect.Type]:
    """Return the types that a value may have, without null, which counts as absent."""
    if isinstance(kind, inspect.Metadata):
        return alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [each for part in kind.types for each in alternatives(part)]
    return [] if isinstance(kind, inspect.NoneType) else [kind]


def parts(kind: inspect.Type, name: str | None) -> list[inspect.Type]:
    """Return the types of the named field; without a name, those of any item."""
    if isinstance(kind, inspect.StructType):
        fields = [field.type for field in kind.fields if field.encode_name == name]
        return [each for field in fields for each in alternatives(field)]
    if isinstance(kind, inspect.DictType):
        return alternatives(kind.value_type)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return alternatives(kind.item_type)
    return []


def without_unknown_fields(value: Any, shape: Any) -> Any:
    """Return decoded JSON without the fields that its type does not have, at any depth."""
    return _known(value, alternatives(tree(shape)))


def accepts_unknown_fields(shape: Any) -> bool:
    """Whether some part of a type ignores fields that it does not have."""
    rest, seen = alternatives(tree(shape)), set()
    while rest:
        kind = rest.pop()
        if isinstance(kind, inspect.StructType) and kind.cls not in seen:
            if not kind.forbid_unknown_fields:
                return True
            seen.add(kind.cls)
            rest += [part for field in kind.fields for part in alternatives(field.type)]
        rest += parts(kind, None)
    return False


def _known(value: Any, kinds: list[inspect.Type]) -> Any:
    if isinstance(value, list):
        items = [part for kind in kinds for part in parts(kind, None)]
        return [_known(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
    if not structs:
        items = [part for kind in kinds for part in parts(kind, None)]
        return {name: _known(item, items) for name, item in value.items()}
    tagged = [kind for kind in structs if kind.tag_field in value]
    chosen = [kind for kind in tagged if value[kind.tag_field] == kind.tag] or structs
    names = {field.encode_name for kind in chosen for field in kind.fields}
    names |= {kind.tag_field for kind in tagged if kind.tag_field is not None}
    return {
        name: _known(item, [part for kind in chosen for part in parts(kind, name)])
        for name, item in value.items()
        if name in names
    }
