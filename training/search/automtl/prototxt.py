"""Reads prototxt, the text form of protocol buffers, without a schema.

    name: "net"
    layer {
      type: "Convolution"
      convolution_param { num_output: 64  kernel_size: 3 }
    }

Numbers, strings and words become Python's; a key may occur several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from perception_core.configuration import ConfigurationError

Scalar = str | int | float | bool

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*|[,;])
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?f?(?![\w.]))
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<mark>[{}:\[\]<>])""",
    re.VERBOSE,
)


class PrototxtError(ConfigurationError):
    """A prototxt cannot be read or has a layer that is not supported; the message names file and line."""


@dataclass
class Message:
    """A message: its fields in the order of the file.

    Attributes:
        line: 1-based line where it begins.
        fields: Values by key; a key that occurs once has a list of one.
        lines: Line of each key's first occurrence.
    """

    line: int
    fields: dict[str, list[Scalar | Message]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def messages(self, key: str) -> list[Message]:
        """Returns the messages under a key."""
        return [value for value in self.fields.get(key, []) if isinstance(value, Message)]

    def message(self, key: str) -> Message:
        """Returns the message under a key, an empty one where there is none."""
        found = self.messages(key)
        return found[0] if found else Message(self.line)

    def scalars(self, key: str) -> list[Scalar]:
        """Returns the values under a key."""
        return [value for value in self.fields.get(key, []) if not isinstance(value, Message)]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def parse_prototxt(text: str, origin: str) -> Message:
    """Parses prototxt.

    Args:
        text: Content of a file.
        origin: What errors call it, e.g. its path.

    Raises:
        PrototxtError: It is no prototxt.
    """
    tokens = list(_tokens(text, origin))
    message, end = _fields(tokens, 0, "", origin)
    assert end == len(tokens)
    return message


def _tokens(text: str, origin: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise PrototxtError(f"{origin}:{line}: unexpected character {text[position]!r}")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match.group(), line)
        line += match.group().count("\n")
        position = match.end()


_CLOSING = {"{": "}", "<": ">"}


def _fields(tokens: list[_Token], position: int, closing: str, origin: str) -> tuple[Message, int]:
    start = tokens[position - 1].line if position else 1
    message = Message(start)
    while position < len(tokens):
        token = tokens[position]
        if closing and token.text == closing:
            return message, position + 1
        if token.kind != "word":
            raise PrototxtError(f"{origin}:{token.line}: expected a key, got '{token.text}'")
        position += 1
        message.lines.setdefault(token.text, token.line)
        values = message.fields.setdefault(token.text, [])
        if position < len(tokens) and tokens[position].text == ":":
            position += 1
        if position >= len(tokens):
            raise PrototxtError(f"{origin}:{token.line}: key '{token.text}' has no value")
        following = tokens[position]
        if following.text in _CLOSING:
            nested, position = _fields(tokens, position + 1, _CLOSING[following.text], origin)
            values.append(nested)
        elif following.text == "[":
            position += 1
            while position < len(tokens) and tokens[position].text != "]":
                values.append(_scalar(tokens[position], origin))
                position += 1
            position += 1
        else:
            values.append(_scalar(following, origin))
            position += 1
    if closing:
        raise PrototxtError(f"{origin}:{start}: '{closing}' is missing at the end; is the file cut off?")
    return message, position


def _scalar(token: _Token, origin: str) -> Scalar:
    if token.kind == "string":
        return token.text[1:-1]
    if token.kind == "number":
        text = token.text.rstrip("f")
        return float(text) if re.search(r"[.eE]", text) else int(text)
    if token.kind == "word":
        return {"true": True, "false": False}.get(token.text, token.text)
    raise PrototxtError(f"{origin}:{token.line}: expected a value, got '{token.text}'")
