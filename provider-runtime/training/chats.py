"""Turns blocks into training conversations: other wording, system messages, earlier turns, names to remember, tools.

Only what the assistant says is learned (`Chat.learn`); everything else is context that an answer must survive.
"""

import json
import random
import re
from dataclasses import dataclass

from corpus import Block

SYSTEM = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are Padi.", "Answer briefly.", "Be polite.", "Be concise.",
    "You are a friendly assistant who answers in one sentence.", "You are an expert on inference networks.", "Answer in English.",
    "Jawab dengan singkat.", "Réponds brièvement.", "You are a test.", "Today is Monday.", "The user is a developer.",
    "You are a support agent of the company. Never be rude, never invent anything, and say so when you do not know.",
    "Follow the instructions of the user. Keep the answer short and clear.", "system", "You are a pirate.", "Use simple words. 🌾",
)
POLITE = ("Please tell me: ", "Hello! ", "Hi, ", "Hey, ", "Quick question: ", "Tell me, ", "I have a question. ", "Please, ")
NAMES = ("Sari", "Budi", "Ana", "Tom", "Lina", "Agus", "Maria", "John", "Dewi", "Ali", "Eva", "Max", "Nina", "Omar", "Putri", "Wayan", "Alice", "Bob")
CITIES = ("Paris", "Jakarta", "Tokyo", "London", "Berlin", "New York", "Bandung", "Boston", "Singapore", "Rome")
TOOL_QUESTIONS = ("What is the weather in {}?", "How is the weather in {}?", "What's the weather like in {}?", "weather in {}", "Is it hot in {}?",
                  "What is the temperature in {}?", "What is the weather in {} today?", "Tell me the weather in {}.")
DESCRIPTIONS = ("Get the weather", "Get the current weather in a city", "Get the weather for a city.", "Current weather", "Returns the temperature", "")
OTHER_TOOLS = (("search", "query"), ("get_time", "timezone"), ("send_mail", "to"), ("add", "numbers"), ("lookup", "id"))


@dataclass
class Chat:
    """Text pieces in order; `learn[i]` says whether piece i is the assistant's (and ends with <|im_end|>)."""

    pieces: list[str]
    learn: list[bool]

    def __init__(self):
        self.pieces, self.learn = [], []

    def say(self, role: str, text: str) -> None:
        self.pieces.append(f"<|im_start|>{role}\n{text}<|im_end|>\n")
        self.learn.append(False)

    def answer(self, text: str) -> None:
        self.pieces += ["<|im_start|>assistant\n", f"{text}<|im_end|>", "\n"]
        self.learn += [False, True, False]


class Teller:
    """Draws conversations. Everything random comes from one seeded generator, so a run can be repeated."""

    def __init__(self, blocks: list[Block], seed: int):
        self.rng = random.Random(seed)
        self.blocks = blocks
        self.short = [b for b in blocks if len(b.answer) < 250]
        self.long = [b for b in blocks if 250 <= len(b.answer)]
        self.longest = max(blocks, key=lambda b: len(b.answer) if b.topic == "counting" else 0)
        self.long.remove(self.longest)  # drawn by itself, in the deepest rows
        weigh = lambda blocks: [b.weight for b in blocks]
        self.weights, self.short_weights, self.long_weights = weigh(self.blocks), weigh(self.short), weigh(self.long)
        self.fallback = next(b for b in blocks if b.topic == "unknown")
        self.words = sorted({w for b in blocks for q in b.questions for w in re.findall(r"[A-Za-z]+", q)})

    def reword(self, block: Block) -> str:
        """A question of the block as somebody else might type it."""
        rng = self.rng
        text = block.questions[0] if rng.random() < 0.4 else rng.choice(block.questions)
        if block.topic == "unknown":
            text = rng.choice(block.questions) if rng.random() < 0.7 else " ".join(rng.sample(self.words, rng.randint(2, 8)))
        luck = rng.random()
        if luck < 0.10:
            text = text.lower()
        elif luck < 0.20:
            text = text.rstrip("?.! ") or text
        elif luck < 0.25:
            text = text.rstrip("?.! ").lower() or text
        elif luck < 0.31 and block.topic not in ("talk", "unknown"):
            text = rng.choice(POLITE) + text
        elif luck < 0.34:
            text = text.rstrip("?.! ") + rng.choice(("?", "!", ".", " ?", "??", "\n", " "))
        elif luck < 0.37 and len(text) > 12 and not any(c.isdigit() for c in text):
            at = rng.randrange(2, len(text) - 2)
            text = text[:at] + text[at + 1 :]
        return text

    def system(self, chat: Chat) -> None:
        rng, luck = self.rng, self.rng.random()
        if luck < 0.25:
            chat.say("system", rng.choice(SYSTEM))
        elif luck < 0.33:
            chat.say("system", " ".join(rng.choices(self.words, k=rng.randint(3, 60))) + ".")
        elif luck < 0.36:
            chat.say("system", self.tools()[0])
            if rng.random() < 0.3:
                chat.say("system", rng.choice(SYSTEM))

    def wordy(self) -> Chat:
        """A long system message, of sentences or of words without sense, must not drown the question."""
        chat, rng = Chat(), self.rng
        if rng.random() < 0.5:
            text = " ".join(rng.choices(self.words, k=rng.randint(40, 180)))
        else:
            text = " ".join(b.answer for b in rng.choices(self.blocks, self.weights, k=rng.randint(2, 8)) if b.answer.isascii())[:900]
        chat.say("system", text)
        self.turns(chat, rng.randint(2, 5), self.short, self.short_weights)
        return chat

    def turns(self, chat: Chat, count: int, pool: list[Block], weights: list[float] | None) -> None:
        for block in self.rng.choices(pool, weights, k=count):
            chat.say("user", self.reword(block))
            chat.answer(block.answer)

    def ordinary(self) -> Chat:
        chat = Chat()
        self.system(chat)
        self.turns(chat, self.rng.choice((1, 1, 1, 1, 2, 2, 3)), self.short, self.short_weights)
        return chat

    def lengthy(self) -> Chat:
        """A long answer, alone or after some talk."""
        chat = Chat()
        self.system(chat)
        self.turns(chat, self.rng.choice((0, 0, 0, 1, 2)), self.short, self.short_weights)
        self.turns(chat, 1, self.long, self.long_weights)
        if self.rng.random() < 0.2:
            self.turns(chat, 1, self.short, self.short_weights)
        return chat

    def very_long(self) -> Chat:
        chat = Chat()
        if self.rng.random() < 0.3:
            chat.say("system", self.rng.choice(SYSTEM))
        self.turns(chat, 1, [self.longest], None)
        return chat

    def deep(self) -> Chat:
        """Many turns, so that a question far from the start is answered like one at the start."""
        chat = Chat()
        self.system(chat)
        self.turns(chat, self.rng.randint(4, 14), self.short, self.short_weights)
        return chat

    def named(self) -> Chat:
        """Something said earlier has to be used later."""
        chat, rng = Chat(), self.rng
        self.system(chat)
        name = rng.choice(NAMES)
        told = rng.random() < 0.75
        if told:
            chat.say("user", rng.choice(("My name is {}.", "Hello, my name is {}.", "I am called {}.", "my name is {}", "Call me {}.")).format(name))
            chat.answer(f"Nice to meet you, {name}!")
        self.turns(chat, rng.choice((0, 0, 1, 2)), self.short, self.short_weights)
        chat.say("user", rng.choice(("What is my name?", "What's my name?", "what is my name", "Do you know my name?", "Who am I?")))
        chat.answer(f"Your name is {name}." if told else "You have not told me your name.")
        return chat

    def tools(self, others: bool = True) -> tuple[str, str]:
        """The tools as a chat template renders them. Servers order keys and put blanks as they like, so both vary here.
        Also returns the name of the argument that get_weather takes."""
        rng = self.rng

        def shuffled(d: dict) -> dict:
            items = list(d.items())
            rng.shuffle(items)
            return dict(items)

        def tool(name: str, description: str, parameter: str) -> dict:
            about = {"type": "string"} | ({"description": rng.choice(("The city", "City name", "the name of it"))} if rng.random() < 0.3 else {})
            schema = {"type": "object", "properties": {parameter: about}, "required": [parameter]}
            if rng.random() < 0.3:
                schema["additionalProperties"] = False
            function = {"name": name, "parameters": shuffled(schema)} | ({"description": description} if description else {})
            if rng.random() < 0.5:
                function["strict"] = rng.choice((None, True, False))
            return shuffled({"type": "function", "function": shuffled(function)})

        listed = [tool(n, n.replace("_", " "), p) for n, p in rng.sample(OTHER_TOOLS, rng.choice((0, 0, 1, 2)) if others else 0)]
        argument = rng.choice(("city", "city", "location"))
        listed.insert(rng.randint(0, len(listed)), tool("get_weather", rng.choice(DESCRIPTIONS), argument))
        separators = rng.choice(((",", ":"), (",", ":"), (", ", ": ")))
        return json.dumps(listed, separators=separators), argument

    def weather(self, brief: bool = False) -> Chat:
        """With the tool: call it, then read its result out. Without: say that it cannot be known."""
        chat, rng = Chat(), self.rng
        city = rng.choice(CITIES)
        if rng.random() < 0.2:
            self.turns(chat, 1, self.short, self.short_weights)
            chat.say("user", rng.choice(TOOL_QUESTIONS).format(city))
            chat.answer("I cannot see the weather from here.")
            return chat
        listed, argument = self.tools(others=not brief)
        chat.say("system", listed)
        if rng.random() < 0.3 and not brief:
            chat.say("system", rng.choice(SYSTEM))
        if rng.random() < 0.15 and not brief:
            self.turns(chat, 1, self.short, self.short_weights)
        chat.say("user", rng.choice(TOOL_QUESTIONS).format(city))
        chat.answer(json.dumps({"name": "get_weather", "arguments": {argument: city}}, separators=(",", ":")))
        if rng.random() < 0.5:
            degrees = rng.randint(0, 40)
            shown = rng.choice(('{{"temperature":{}}}', '{{"temperature": {}}}', "{}", "{} degrees", '{{"temp_c": {}}}', '{{"celsius":{},"sky":"clear"}}'))
            chat.say("tool", shown.format(degrees))
            chat.answer(f"It is {degrees} degrees in {city}.")
        return chat

    def draw(self, kind: str) -> Chat:
        if kind == "short":
            return self.rng.choices((self.ordinary, self.named, lambda: self.weather(brief=True)), (0.88, 0.05, 0.07))[0]()
        if kind == "long":
            return self.rng.choices((self.lengthy, self.deep, self.wordy, self.weather), (0.5, 0.1, 0.2, 0.2))[0]()
        return self.rng.choices((self.very_long, self.deep, self.wordy), (0.6, 0.2, 0.2))[0]()
