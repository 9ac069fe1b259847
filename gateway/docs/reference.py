"""The API reference, from openapi/openapi.json: a page for each tag, and one for all schemas."""

import json
import re

INTRODUCTIONS = {
    "OpenAI": "As OpenAI's SDKs call them. [Parameters](parameters.md) says what becomes of each member of a request.",
    "Anthropic": "As Anthropic's SDKs call them; their base URL has no `/v1`.",
    "Account": "What an account's own key may ask and, with a management key, change.",
    "Receipts": "What an answer cost, and the proof.",
    "Operator": "For billing systems, with an operator's token. A change that is repeated with the same `Idempotency-Key` acts once.",
    "Provider protocol": "What `lumbung-provider` says to a gateway. Nobody else needs it.",
    "Operations": "For supervisors and balancers.",
}


def pages(spec):
    """The pages by name, and on which page each operation is."""
    document = json.loads(spec.read_text("utf-8"))
    by_tag, where = {}, {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "operationId" in operation:
                tag = operation["tags"][0]
                by_tag.setdefault(tag, []).append((method.upper(), path, operation))
                where[operation["operationId"]] = page_of(tag)
    made = {page_of(tag): page(tag, operations, document) for tag, operations in by_tag.items()}
    made["api/schemas.md"] = schemas(document["components"]["schemas"])
    return made, where


def page_of(tag):
    return f"api/{tag.lower().replace(' ', '-')}.md"


def page(tag, operations, document):
    parts = [f"# {tag}", INTRODUCTIONS[tag], "| | | |", "|---|---|---|"]
    parts += [f"| `{method}` | `{path}` | [{cell(o['summary'])}](#{o['operationId']}) |" for method, path, o in operations]
    text = "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:]) + "\n"
    return text + "".join(operation(*each, document["components"]["securitySchemes"]) for each in operations)


def operation(method, path, o, schemes):
    parts = [f"## {o['summary']} {{: #{o['operationId']} }}", f"`{method} {path}`"]
    if o.get("description"):
        parts.append(o["description"])
    for needed in o.get("security", []):
        parts += [f"**Authorization**: {schemes[name].get('description', name)}" for name in needed]
    if o.get("parameters"):
        rows = [
            [f"`{p['name']}`", p["in"], kind(p.get("schema", {})), told(p, "required" if p.get("required") else "")]
            for p in o["parameters"]
        ]
        parts.append(table(["parameter", "in", "type", ""], rows))
    body = o.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        parts.append(f"**Body** (`{media}`): {kind(content.get('schema', {}))}")
    rows = []
    for status, answer in o["responses"].items():
        shapes = [f"{kind(content.get('schema', {}))} (`{media}`)" for media, content in answer.get("content", {}).items()]
        rows.append([f"`{status}`", "; ".join(shapes), answer.get("description", "")])
    parts.append(table(["status", "body", ""], rows))
    headers = {name: header for answer in o["responses"].values() for name, header in answer.get("headers", {}).items()}
    if headers:
        rows = [[f"`{name}`", header.get("description", "")] for name, header in sorted(headers.items())]
        parts.append(table(["header of answers", ""], rows))
    return "\n" + "\n\n".join(parts) + "\n"


def schemas(all_of_them):
    parts = ["# Schemas", "What requests and answers are made of. Members that are not marked *required* may be absent."]
    for name, schema in sorted(all_of_them.items()):
        parts.append(f"## {name} {{: #{name} }}")
        if schema.get("description"):
            parts.append(schema["description"])
        parts += shape(schema)
    return "\n\n".join(parts) + "\n"


def shape(schema):
    """What a schema consists of: its members, its values, or its kinds."""
    members = dict(members_of(schema))
    parts = []
    based = [kind(part) for part in schema.get("allOf", []) if "$ref" in part]
    if based:
        parts.append(f"All of {', '.join(based)}" + (", and:" if members else "."))
    if members:
        rows = [
            [f"`{name}`", kind(member), told(member, "required" if required else "")]
            for name, (member, required) in members.items()
        ]
        parts.append(table(["member", "type", ""], rows))
    for key, word in (("oneOf", "One of"), ("anyOf", "Any of")):
        if key in schema:
            parts.append(f"{word}:\n\n" + "\n".join(f"- {variant(each)}" for each in schema[key]))
    if not parts:
        parts.append(kind(schema))
    return parts


def members_of(schema):
    required = set(schema.get("required", []))
    for name, member in schema.get("properties", {}).items():
        yield name, (member, name in required)
    for part in schema.get("allOf", []):
        if "$ref" not in part:
            yield from members_of(part)


def variant(schema):
    members = [f"`{name}`: {kind(member)}" for name, (member, _) in members_of(schema)]
    inside = f" with {', '.join(members)}" if members else ""
    said = f": {schema['description']}" if schema.get("description") else ""
    return f"{kind(schema)}{inside}{said}"


def kind(schema):
    """A schema in a few words; references are links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](schemas.md#{name})"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            kinds = dict.fromkeys(kind(part) for part in schema[key])
            return (" and " if key == "allOf" else " or ").join(kinds)
    types = schema.get("type", "anything")
    types = types if isinstance(types, list) else [types]
    words = []
    for each in types:
        if each == "array":
            words.append(f"list of {kind(schema.get('items', {}))}")
        elif each == "object" and isinstance(schema.get("additionalProperties"), dict):
            words.append(f"object of {kind(schema['additionalProperties'])}")
        else:
            words.append(each)
    return " or ".join(words)


def told(member, *more):
    limits = [f"{word} {member[key]}" for key, word in LIMITS if key in member]
    schema = member.get("schema", {})
    limits += [f"{word} {schema[key]}" for key, word in LIMITS if key in schema]
    example = member.get("example")
    said = member.get("description", "")
    example = f"`{example if isinstance(example, str) else json.dumps(example)}`" if example is not None else ""
    parts = [f"*{note}*" for note in more if note] + [said] + ([f"({', '.join(limits)})"] if limits else [])
    return " ".join(part for part in parts if part) + (f" Such as {example}." if example else "")


LIMITS = [("minimum", "at least"), ("maximum", "at most"), ("minLength", "length at least"), ("maxLength", "length at most")]


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(cell(each) for each in row)} |" for row in rows])


def cell(text):
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
