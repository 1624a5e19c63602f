"""What the compiler refuses."""

from __future__ import annotations

from perception_core.configuration import ConfigurationError


class UnsupportedOperatorError(ConfigurationError):
    """A backbone has something the compiler cannot turn into virtual computation nodes.

    Attributes:
        node: The operator's or module's name in the backbone; empty where the backbone as a whole is meant.
        source: `file:line: code` of the backbone's definition; empty where it is not known.
    """

    def __init__(self, node: str, problem: str, source: str = "") -> None:
        where = f"operator '{node}'" if node else "the backbone"
        super().__init__(f"{where}{f' ({source})' if source else ''}: {problem}")
        self.node = node
        self.source = source
