"""The JSON schemas of the wire types, as client generators understand them.

Owns how msgspec's schemas are completed: every value has a type, every component a title that is
its own name, and the name of an event a description. Refuses to know operations. Pure.
"""

from collections import Counter
from collections.abc import Iterable
from inspect import isclass
from typing import Any, Final, get_args

import msgspec
from msgspec import UNSET, Struct

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/"
_DIALECTS: Final = ["api", "dialects"]
_TYPES: Final[dict[type, str]] = {bool: "boolean", str: "string"}


class Schemas:
    """Every type of a document as a component; `of` returns the reference to one.

    A default means that a request may omit the field, and that a reply never does. A union is a
    component under its title.
    """

    def __init__(self, requests: Iterable[object], replies: Iterable[object]) -> None:
        request_shapes = set(requests)
        shapes = list(request_shapes | set(replies))
        structs, of_requests = _structs(shapes), set(_structs(request_shapes))
        names = _names(structs, of_requests)
        schemas, parts = msgspec.json.schema_components(shapes, ref_template=_REF + "{name}")
        keys = {
            struct: struct.__name__ if struct.__name__ in parts else _full_name(struct)
            for struct in structs
        }
        self._names = {_REF + keys[struct]: _REF + names[struct] for struct in structs}
        self.components: dict[str, Schema] = {}
        for struct in sorted(structs, key=names.__getitem__):
            part = self._completed(parts[keys[struct]]) | {"title": names[struct]}
            if struct in of_requests:
                _leave_out_nulls(part)
                _describe_tag(struct, part, "Names the kind.")
            else:
                _require_what_is_sent(struct, part)
            self.components[names[struct]] = part
        self._refs = dict(zip(shapes, map(self._reference, schemas), strict=True))

    def of(self, shape: object) -> Schema:
        """Return the reference to one of the types."""
        return self._refs[shape]

    def about(self, shape: object) -> str:
        """Return the description of one of the types."""
        name = self._refs[shape]["$ref"].removeprefix(_REF)
        about: str = self.components[name]["description"]
        return about

    def _reference(self, schema: Schema) -> Schema:
        schema = self._completed(schema)
        if "$ref" in schema:
            return schema
        self.components[schema["title"]] = schema
        return {"$ref": _REF + schema["title"]}

    def _completed(self, schema: Any) -> Any:  # noqa: ANN401  any part of a schema
        """Return a schema with the document's names, and with the types that msgspec omits."""
        if isinstance(schema, str):
            return self._names.get(schema, schema)
        if isinstance(schema, list):
            return [self._completed(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        whole = {name: self._completed(part) for name, part in schema.items()}
        values = whole.get("enum")
        if isinstance(values, list):
            whole["type"] = _TYPES[type(values[0])]
            if len(values) == 1:
                whole["const"] = whole.pop("enum")[0]
        return _described_outside(whole)


def _structs(shapes: Iterable[object]) -> list[type[Struct]]:
    """Return every struct that shapes are made of, each once."""
    found: dict[type[Struct], None] = {}
    rest = list(shapes)
    while rest:
        shape = rest.pop()
        if not (isclass(shape) and issubclass(shape, Struct)):
            rest += get_args(shape)
        elif shape not in found:
            found[shape] = None
            rest += [field.type for field in msgspec.structs.fields(shape)]
    return list(found)


def _names(structs: list[type[Struct]], of_requests: set[type[Struct]]) -> dict[type[Struct], str]:
    """Return a name for each.

    Names of events, which only replies have, end in `Event`; of two types with one name, a
    dialect's begins with the dialect's.
    """
    counts = Counter(struct.__name__ for struct in structs)
    names = {}
    for struct in structs:
        modules, name = struct.__module__.split("."), struct.__name__
        if struct.__struct_config__.tag_field and struct not in of_requests:
            name += "Event"
        elif counts[name] > 1 and modules[:2] == _DIALECTS:
            name = modules[2].title() + name
        names[struct] = name
    shared = [name for name, count in Counter(names.values()).items() if count > 1]
    if shared:
        raise ValueError(f"more than one shape is called {', '.join(shared)}")
    return names


def _full_name(struct: type[Struct]) -> str:
    """Return msgspec's name for a type whose short name is not unique."""
    return f"{struct.__module__}.{struct.__qualname__}"


def _require_what_is_sent(struct: type[Struct], schema: Schema) -> None:
    """Mark as required all fields that a reply always has."""
    config = struct.__struct_config__
    required = [config.tag_field] if config.tag_field else []
    for field in msgspec.structs.fields(struct):
        may_lack = field.default is UNSET or (config.omit_defaults and not field.required)
        schema["properties"][field.encode_name].pop("default", None)
        if not may_lack:
            required.append(field.encode_name)
    _describe_tag(struct, schema, "Names the event.")
    if required:
        schema["required"] = required


def _describe_tag(struct: type[Struct], schema: Schema, description: str) -> None:
    tag_field = struct.__struct_config__.tag_field
    if tag_field:
        schema["properties"][tag_field]["description"] = description


def _leave_out_nulls(schema: Schema) -> None:
    """Drop null defaults: they only say that a request may omit the field.

    Some generators treat a field with a default as one that is always there.
    """
    for field in schema["properties"].values():
        if field.get("default", UNSET) is None:
            del field["default"]


def _described_outside(schema: Schema) -> Schema:
    """Move the description of the only described alternative to the whole schema."""
    kinds = schema.get("anyOf", [])
    described = [kind for kind in kinds if "description" in kind]
    if "description" in schema or len(described) != 1:
        return schema
    return {"description": described[0].pop("description"), **schema}
