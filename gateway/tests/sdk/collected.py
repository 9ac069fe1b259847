"""A client that notes every answer, for `types.mjs` to check; `collected.mjs` is the same for Node.

COLLECTED  the file that gets one line of JSON for each answer; nothing is noted unless it is set
"""

import json
import os

import httpx2
import openai

COLLECTED = os.environ.get("COLLECTED")


class Noted(httpx2.SyncByteStream):
    """Passes an answer on, and notes what has been read of it once it is closed: the SDK stops at `[DONE]`."""

    def __init__(self, request, response):
        self.request, self.response, self.stream, self.pieces = request, response, response.stream, []

    def __iter__(self):
        for piece in self.stream:
            self.pieces.append(piece)
            yield piece

    def close(self):
        self.stream.close()
        line = {
            "request": f"{self.request.method} {self.request.url.path}",
            "status": self.response.status_code,
            "type": self.response.headers.get("content-type"),
            "body": b"".join(self.pieces).decode(errors="replace"),
        }
        with open(COLLECTED, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Collecting(httpx2.HTTPTransport):
    def handle_request(self, request):
        response = super().handle_request(request)
        response.stream = Noted(request, response)
        return response


def http_client():
    """For `openai.OpenAI(http_client=…)`: None, so its own, where nothing is noted."""
    return openai.DefaultHttpxClient(transport=Collecting()) if COLLECTED else None
