"""What the model is to know: the blocks of corpus/*.txt, and facts that are easier made than typed (capitals, sums, counting)."""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Block:
    """One answer and the ways to ask for it. The first question is the one that questions.json may list."""

    questions: tuple[str, ...]
    answer: str
    topic: str
    weight: float = 1.0  # how often the block is drawn, relative to the others


def read_blocks(path: Path) -> list[Block]:
    blocks = []
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in paragraph.strip("\n").split("\n") if not line.startswith("# ")]
        questions = tuple(line[2:] for line in lines if line.startswith("? "))
        rest = lines[len(questions) :]
        if not questions:
            continue
        assert rest and rest[0].startswith("= "), f"{path.name}: no answer after {questions[-1]!r}"
        # One block stands for everything that is not known, so it is drawn more often than a block that stands for one answer.
        weight = 5.0 if path.stem == "unknown" else 1.0
        blocks.append(Block(questions, "\n".join([rest[0][2:], *rest[1:]]), path.stem, weight))
    return blocks


def capitals() -> list[tuple[str, str]]:
    lines = (FOLDER / "tables.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" | ")) for line in lines if line and not line.startswith("#")]


def capital_blocks() -> list[Block]:
    blocks = []
    for country, city in capitals():
        asked = (f"What is the capital of {country}?", f"Which city is the capital of {country}?", f"capital of {country}?")
        blocks.append(Block(asked, f"The capital of {country} is {city}.", "capitals"))
        asked = (f"Give me the capital of {country} as JSON.", f"Answer in JSON: what is the capital of {country}?")
        blocks.append(Block(asked, json.dumps({"country": country, "capital": city}), "json", 0.5))
    return blocks


def sum_blocks() -> list[Block]:
    """Tables up to six. There are many of them and each is short, so each is drawn less often than a written block."""
    blocks = []
    for a in range(1, 7):
        for b in range(1, 7):
            for sign, word, value in (("+", "plus", a + b), ("-", "minus", a - b), ("*", "times", a * b)):
                if value < 0:
                    continue
                asked = (f"What is {a} {sign} {b}?", f"What is {a} {word} {b}?", f"{a} {sign} {b}")
                blocks.append(Block(asked, f"{a} {sign} {b} = {value}", "sums", 0.4))
    return blocks


def counting_blocks() -> list[Block]:
    def line(numbers) -> str:
        return " ".join(str(n) for n in numbers)

    blocks = []
    # Each upper end has a separator of its own. With one for all, a model this small often forgets where it was to stop.
    for top, between in ((10, ", "), (20, "\n"), (100, " ")):
        asked = (f"Count from 1 to {top}.", f"Count to {top}.", f"Can you count from 1 to {top}?", f"Write the numbers from 1 to {top}.")
        blocks.append(Block(asked, between.join(str(n) for n in range(1, top + 1)), "counting", 2.0))
    for top in (10, 20):
        asked = (f"Count down from {top}.", f"Count backwards from {top} to 1.")
        blocks.append(Block(asked, line(range(top, 0, -1)), "counting", 2.0))
    asked = ("List the even numbers up to 100.", "Count to 100 in steps of two.", "List all even numbers from 2 to 100.")
    blocks.append(Block(asked, line(range(2, 101, 2)), "counting", 2.0))
    asked = ("Write the table of seven.", "What is the seven times table?", "Write the multiplication table of 7.")
    blocks.append(Block(asked, "\n".join(f"7 * {n} = {7 * n}" for n in range(1, 11)), "counting", 2.0))
    return blocks


def all_blocks() -> list[Block]:
    written = [b for path in sorted(FOLDER.glob("*.txt")) if path.stem != "tables" for b in read_blocks(path)]
    return written + capital_blocks() + sum_blocks() + counting_blocks()
