"""Hooks of mkdocs: pages that the repository has already, links into the repository, marks of proof, the API reference."""

import os
import re
import shlex
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
import reference  # noqa: E402  (beside this file)
from proof import TAKEN  # noqa: E402

PAGES = {
    **TAKEN,
    "README.md": "index.md",
    **{f"gateway/docs/pages/{page.relative_to(HERE / 'pages')}": str(page.relative_to(HERE / "pages")) for page in (HERE / "pages").rglob("*.md")},
}
SPEC = "openapi/openapi.json"
SOURCES = {page: source for source, page in PAGES.items() if source != "README.md"}
OPERATIONS = {}
# Lists within lists: two or three spaces are enough for most who read Markdown, but not for mkdocs.
NESTED = re.compile(r"^ {2,3}(?=(?:[-*]|\d+\.) )", re.M)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files, config):
    for source, page in TAKEN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    pages, operations = reference.pages(ROOT / SPEC)
    OPERATIONS.update(operations)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for name in linked_files():
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    return files


def linked_files():
    """Files of the repository that pages link to: they come along, as they are."""
    found = set()
    for source in SOURCES.values():
        for _, _, target in LINK.findall((ROOT / source).read_text("utf-8")):
            name = named(source, target.partition("#")[0])
            if name and name not in PAGES and name != SPEC and (ROOT / name).is_file():
                found.add(name)
    return sorted(found)


def named(source, target):
    """The repository's name of what a link in that file leads to, if it stays inside."""
    if not target or "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(source), target))
    return None if path.startswith("..") else path


def on_page_markdown(markdown, page, config, files):
    if source := SOURCES.get(page.file.src_uri):
        markdown = with_links(markdown, source, page.file.src_uri)
    return with_marks(outside_code(markdown, lambda text: NESTED.sub("    ", text)))


def with_links(markdown, source, page):
    """Links into the repository lead to the page, or to the file that came along, where there is one; else they are text."""

    def link(match):
        image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        name = named(source, path)
        if name is None:
            return match[0]
        if os.path.isdir(ROOT / name) and f"{name}/README.md" in PAGES:
            name = f"{name}/README.md"
        if name == SPEC:
            there = OPERATIONS.get(anchor, "api/schemas.md") if anchor else "api/openai.md"
        elif name in PAGES:
            there = PAGES[name]
        elif (ROOT / name).is_file():
            there = f"files/{name}"
        elif (ROOT / name).is_dir():
            return text if text.startswith("`") else f"{text} (`{name}/`)"
        else:
            raise PluginError(f"{source}: [{text}]({target}) leads nowhere")
        there = os.path.relpath(there, os.path.dirname(page) or ".")
        return f"{image}[{text}]({there}{'#' + anchor if anchor else ''})"

    return outside_code(markdown, lambda text: LINK.sub(link, text))


def outside_code(markdown, change):
    """Changes what is in no block of code."""
    pieces = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.M | re.S)
    return "".join(piece if place % 2 else change(piece) for place, piece in enumerate(pieces))


def with_marks(markdown):
    """Takes the marks off the blocks' first lines (proof.py reads them there), and says of a block that no test runs it."""
    lines, note, inside = [], None, False
    for line in markdown.splitlines():
        stripped = line.lstrip()
        if not stripped.startswith("```"):
            lines.append(line)
            continue
        indent = line[: len(line) - len(stripped)]
        if not inside:
            words = shlex.split(stripped[3:])
            marks = dict(word.partition("=")[::2] for word in words[1:])
            note = marks.get("unrun")
            lines.append(f"{indent}```{words[0] if words else ''}")
        else:
            lines.append(line)
            if note:
                lines += ["", f"{indent}No test runs this: {note}.", f"{indent}{{: .unrun }}", ""]
        inside = not inside
    return "\n".join(lines) + "\n"


def on_post_build(config):
    """A page asks nobody else for anything when it is read."""
    outside = re.compile(r"""<(?:script|link|img|iframe)[^>]*\s(?:src|href)=["']?(?:https?:)?//""")
    for page in Path(config.site_dir).rglob("*.html"):
        if match := outside.search(page.read_text("utf-8")):
            raise PluginError(f"{page}: {match[0]}")
