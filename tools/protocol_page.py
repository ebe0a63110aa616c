"""Turn the protocol's description, with its comments, into a Markdown page."""

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

# Field numbers of descriptor.proto: a comment is found by the path of what it stands at.
_PACKAGE_SYNTAX = 12
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED = 2, 3
_ENUM_VALUE = 2
_SERVICE_METHOD = 2

_Path = tuple[int, ...]
_Comments = dict[_Path, SourceCodeInfo.Location]


def render(descriptors: bytes) -> str:
    """Return the page of a serialized FileDescriptorSet that holds one file with source info."""
    (file,) = FileDescriptorSet.FromString(descriptors).file
    return "\n".join(_page(file)).rstrip() + "\n"


def _page(file: FileDescriptorProto) -> Iterator[str]:
    comments: _Comments = {tuple(place.path): place for place in file.source_code_info.location}
    yield f"# The protocol `{file.package}`"
    yield ""
    yield f"Generated from `proto/{file.name}`; change its comments, then `make proto`."
    yield ""
    yield from _leading(comments, (_PACKAGE_SYNTAX,))
    for index, service in enumerate(file.service):
        yield from _service(file, service, comments, (_FILE_SERVICE, index))
    yield "## Messages"
    yield ""
    for index, message in enumerate(file.message_type):
        yield from _message(file, message, comments, (_FILE_MESSAGE, index), "")
    yield "## Enumerations"
    yield ""
    for index, enum in enumerate(file.enum_type):
        yield from _enum(enum, comments, (_FILE_ENUM, index))


def _service(
    file: FileDescriptorProto, service: ServiceDescriptorProto, comments: _Comments, path: _Path
) -> Iterator[str]:
    yield f"## Calls of `{file.package}.{service.name}`"
    yield ""
    for index, method in enumerate(service.method):
        request = _stream(method.client_streaming) + _link(file, method.input_type)
        reply = _stream(method.server_streaming) + _link(file, method.output_type)
        yield f"### {method.name}"
        yield ""
        yield f"{request} → {reply}"
        yield ""
        yield from _leading(comments, (*path, _SERVICE_METHOD, index))


def _stream(streaming: bool) -> str:
    return "stream of " if streaming else ""


def _message(
    file: FileDescriptorProto,
    message: DescriptorProto,
    comments: _Comments,
    path: _Path,
    parent: str,
) -> Iterator[str]:
    name = f"{parent}{message.name}"
    if message.options.map_entry:
        return
    yield f"### {name}"
    yield ""
    yield from _leading(comments, path)
    if message.field:
        yield "| field | type | |"
        yield "|---|---|---|"
        for index, field in enumerate(message.field):
            note = _note(comments, (*path, _MESSAGE_FIELD, index))
            if field.HasField("oneof_index") and not field.proto3_optional:
                choice = message.oneof_decl[field.oneof_index].name
                note = f"one of `{choice}`" + (f"; {note}" if note else "")
            yield f"| `{field.name}` | {_type(file, message, field)} | {note} |"
        yield ""
    elif not _note(comments, path):
        yield "No fields."
        yield ""
    for index, nested in enumerate(message.nested_type):
        yield from _message(file, nested, comments, (*path, _MESSAGE_NESTED, index), f"{name}.")


def _enum(enum: EnumDescriptorProto, comments: _Comments, path: _Path) -> Iterator[str]:
    yield f"### {enum.name}"
    yield ""
    yield from _leading(comments, path)
    for index, value in enumerate(enum.value):
        note = _note(comments, (*path, _ENUM_VALUE, index))
        yield f"- `{value.name}` = {value.number}" + (f": {note}" if note else "")
    yield ""


def _type(file: FileDescriptorProto, message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entry = next(
        (
            nested
            for nested in message.nested_type
            if nested.options.map_entry
            and field.type_name.endswith(f".{message.name}.{nested.name}")
        ),
        None,
    )
    if entry is not None:
        key, value = (_type(file, entry, part) for part in entry.field)
        return f"map of {key} to {value}"
    if field.type_name:
        kind = _link(file, field.type_name)
    else:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"list of {kind}"
    return f"{kind}, optional" if field.proto3_optional else kind


def _link(file: FileDescriptorProto, type_name: str) -> str:
    name = type_name.removeprefix(f".{file.package}.")
    return f"[{name}](#{name.lower().replace('.', '')})"


def _leading(comments: _Comments, path: _Path) -> Iterator[str]:
    place = comments.get(path)
    if place is not None and place.leading_comments:
        yield from (line.removeprefix(" ").rstrip() for line in place.leading_comments.splitlines())
        yield ""


def _note(comments: _Comments, path: _Path) -> str:
    place = comments.get(path)
    if place is None:
        return ""
    words = f"{place.leading_comments} {place.trailing_comments}".split()
    return " ".join(words).replace("|", "\\|")
