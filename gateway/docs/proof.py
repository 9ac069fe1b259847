#!/usr/bin/env python3
"""Every block of code in the documentation is proven, and this is how.

    proof.py check [FILE...]    each block says how it is proven, and that is so: in all documents, or in these
    proof.py run PAGE...        runs the blocks that are marked `run`, in the order of their page

A block's first line says, behind its language, one of

    run                      `proof.py run` runs it, and a test runs that
    run within=SECONDS       it is run again until it succeeds, for so long at most
    run=provider             (a `toml` block) `lumbung-provider config check` finds nothing wrong; else `lumbung-gateway` is asked
    run=background until=X   its last command is left running; the page goes on when the command X succeeds
    output                   (a `text` block) is what the block before prints; `…` stands for anything, a line of its own for lines
    tested=FILE::NAME        the test NAME in FILE does what it shows
    unrun="WHY"              no test runs it; the site says so, and why

Blocks of `text`, or of no language, need no proof: they are no commands. Needs nothing but Python.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGES = HERE / "pages"
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
# What lies elsewhere in the repository, and which page shows it.
TAKEN = {
    "gateway/CONFIG.md": "operations/settings.md",
    "gateway/deploy/observe/README.md": "operations/observe.md",
    "gateway/ROUTING.md": "guide/rules.md",
    "provider-runtime/CONFIG.md": "start/settings.md",
    "provider-runtime/FORMS.md": "guide/forms.md",
    "openapi/PARAMETERS.md": "api/parameters.md",
    "gateway/ARCHITECTURE.md": "inside/architecture.md",
    "migrations/README.md": "inside/migrations.md",
    "loadtest/RESULTS.md": "inside/results.md",
}
# Where tests say which pages they run.
TESTS = ROOT / "gateway/tests/network/site.rs"
SECONDS = 240


class Block:
    """A block of code: its language, its marks, its text, and where it stands."""

    def __init__(self, file, line, info, lines):
        self.file, self.line, self.lines = file, line, lines
        words = shlex.split(info)
        self.language = words[0] if words else ""
        self.marks = dict(word.partition("=")[::2] for word in words[1:])

    def __str__(self):
        return f"{shown(self.file)}:{self.line}"


def shown(file):
    return file.relative_to(ROOT) if file.is_relative_to(ROOT) else file


def blocks(file):
    found, start, lines = [], None, []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if fence and start is None:
            start, indent, info, lines = number, len(fence["indent"]), fence["info"].strip(), []
        elif fence and not fence["info"].strip():
            found.append(Block(file, start, info, lines))
            start = None
        elif start is not None:
            lines.append(line[indent:])
    if start is not None:
        raise SystemExit(f"{file}:{start}: the block does not end")
    return found


def documents():
    return [ROOT / "README.md", *(ROOT / name for name in TAKEN), *sorted(PAGES.rglob("*.md"))]


# check


def check(files):
    wrong = [f"{block}: {why}" for file in files for block, why in problems(file)]
    tests = TESTS.read_text("utf-8")
    for file in files:
        name = shown(file).as_posix() if not file.is_relative_to(PAGES) else file.relative_to(PAGES).as_posix()
        if any("run" in block.marks for block in blocks(file)) and f'"{name}"' not in tests:
            wrong.append(f"{shown(file)}: {TESTS.name} does not run this page")
        if file.is_relative_to(PAGES):
            wrong += [f"{shown(file)}: {why}" for why in nobody_tests(file)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{sum(len(blocks(file)) for file in files)} blocks are proven")


def nobody_tests(file):
    """Tests that the text names, as `resume.rs::is_charged_once`, and that are not there."""
    for name, function in re.findall(r"`([\w./-]+\.(?:rs|py|mjs))(?:::(\w+))?`", file.read_text("utf-8")):
        found = [folder / name for folder in (ROOT, ROOT / "gateway/tests/network", ROOT / "gateway/tests") if (folder / name).is_file()]
        if not found:
            yield f"there is no {name}"
        elif function and (why := untested(f"{found[0].relative_to(ROOT)}::{function}")):
            yield why


def problems(file):
    before = None
    for block in blocks(file):
        why = problem(block, before)
        if why:
            yield block, why
        before = block


def problem(block, before):
    marks = block.marks
    if unknown := set(marks) - {"run", "within", "until", "output", "tested", "unrun"}:
        return f"unknown marks: {', '.join(sorted(unknown))}"
    if "output" in marks:
        if block.language != "text" or before is None or "run" not in before.marks:
            return "`output` is for a text block behind one that is run"
        return None
    if "run" in marks:
        if block.language not in RUNNERS:
            return f"{block.language!r} cannot be run"
        return None
    if "unrun" in marks:
        return None if marks["unrun"] else "why is it not run?"
    if "tested" in marks:
        return untested(marks["tested"])
    if block.language in ("text", ""):
        return None
    return "nothing proves it"


def untested(test):
    name, _, function = test.partition("::")
    file = ROOT / name
    if not file.is_file():
        return f"there is no {name}"
    if not re.search(rf"\b(fn|def) {re.escape(function)}\b|test\('{re.escape(function)}'", file.read_text("utf-8")):
        return f"{name} has no test {function}"
    return None


# run


def commands(block):
    """The commands of a console block, each with the output that is shown below it."""
    found = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            found[-1][0] += "\n" + line
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise SystemExit(f"{block}: a console block begins with a command")
    return found


def console(block, number, replaced):
    shown = commands(block)
    if within := block.marks.get("within"):
        together = " &&\n".join(command for command, _ in shown)
        yield f"again {int(within)} {shlex.quote(together)}", shown[-1][1] or None
        return
    for place, (command, output) in enumerate(shown):
        is_last = place == len(shown) - 1
        if block.marks["run"] == "background" and is_last:
            # What it says, the page does not show: it stays out of the comparison.
            yield f'{{ exec {command}\n}} >>"$KEPT/background.log" 2>&1 &', None
            if until := block.marks.get("until"):
                yield f"until {until} >/dev/null 2>&1; do kill -0 $! && sleep 0.1 || exit 1; done", None
        else:
            yield command, output or None


def script(program, suffix):
    def runner(block, number, replaced):
        name = f"example_{number}{suffix}"
        (Path(replaced["folder"]) / name).write_text(replaced["apply"]("\n".join(block.lines)) + "\n", "utf-8")
        yield f"{program} {name}", None

    return runner


def settings(block, number, replaced):
    program = "lumbung-provider" if block.marks["run"] == "provider" else "lumbung-gateway"
    return script(f"{program} config check --config", ".toml")(block, number, replaced)


RUNNERS = {
    "console": console,
    "python": script("python3", ".py"),
    "js": script("node", ".mjs"),
    "toml": settings,
}


def run(pages):
    """Runs the pages one after the other, in one shell: what a page exports, the next has too."""
    # What stands for the reader's own addresses and keys, longest first.
    replace = sorted(json.loads(os.environ.get("REPLACE", "{}")).items(), key=lambda pair: -len(pair[0]))

    def apply(text):
        for placeholder, real in replace:
            text = text.replace(placeholder, real)
        return text

    with tempfile.TemporaryDirectory(prefix="lumbung-docs.") as folder:
        if modules := os.environ.get("NODE_MODULES"):
            os.symlink(modules, Path(folder) / "node_modules")
        steps = list(steps_of(pages, {"folder": folder, "apply": apply}))
        perform(steps, folder)


def steps_of(pages, replaced):
    """(block, command, output that is expected of it)"""
    number = 0
    for page in pages:
        file = PAGES / page if (PAGES / page).is_file() else ROOT / page
        for block in blocks(file):
            number += 1
            if "output" in block.marks:
                last = steps[-1]
                yield block, None, block.lines
            elif "run" in block.marks:
                steps = []
                for command, output in RUNNERS[block.language](block, number, replaced):
                    step = (block, replaced["apply"](command), output and [replaced["apply"](line) for line in output])
                    steps.append(step)
                    yield step


def perform(steps, folder):
    kept = Path(folder) / ".kept"
    kept.mkdir()
    lines = ["set -o pipefail", f"KEPT={shlex.quote(str(kept))}", f"cd {shlex.quote(folder)}"]
    lines.append("trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT")
    # again SECONDS COMMANDS: until they succeed; only what they said last counts.
    lines.append('again() { local end=$((SECONDS + $1)); until eval "$2" >"$KEPT/said"; do [ $SECONDS -lt $end ] || return 1; '
                 'sleep 0.3; done; cat "$KEPT/said"; }')
    for place, (block, command, _) in enumerate(steps):
        if command is None:
            continue
        lines += [f"echo {place} >$KEPT/at", "{", command, f'}} >"$KEPT/{place}.out" 2>"$KEPT/{place}.err"']
        lines += ["[ $? = 0 ] || exit 1"]
    shell = subprocess.Popen(["bash", "-c", "\n".join(lines)], start_new_session=True)
    try:
        code = shell.wait(SECONDS)
    except subprocess.TimeoutExpired:
        code = f"no end within {SECONDS} s"
    finally:
        try:
            os.killpg(shell.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    at = int((kept / "at").read_text())
    if code != 0:
        raise SystemExit(failure(steps[at], kept, at, code))
    last = None
    for place, (block, command, expected) in enumerate(steps):
        if command is not None:
            last = place
        if expected is not None:
            said = (kept / f"{last}.out").read_text("utf-8").splitlines()
            if not agrees(expected, said):
                shown = "\n".join(expected), "\n".join(said)
                raise SystemExit(f"{block}: shows\n{shown[0]}\n--- but it is\n{shown[1]}")
    print(f"{len(steps)} steps ran")


def failure(step, kept, at, code):
    log = kept / "background.log"
    parts = [(kept / f"{at}.out"), (kept / f"{at}.err"), log]
    said = "\n".join(part.read_text("utf-8", "replace")[-3000:] for part in parts if part.exists())
    return f"{step[0]}: {step[1]}\n--- failed ({code})\n{said}"


def agrees(expected, said):
    """Line by line; `…` is anything within a line, and alone any lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r"\s*\n"
        for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in said).rstrip("\n") + "\n") is not None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", *files]:
            check([Path(file) for file in files] or documents())
        case ["run", *pages] if pages:
            run(pages)
        case _:
            raise SystemExit(__doc__)
