"""Where moved components are now, for processes of the run that are started again."""

from __future__ import annotations

import json
from pathlib import Path

from perception_core.atomic_write import write_atomically
from perception_core.configuration import ConfigurationError
from perception_core.movable import Home
from perception_nodes.transport.shared_memory_run import base_folder, run_name

FILE_NAME = "placement.json"


class PlacementRecord:
    """A file in the run's folder; it goes with the run's shared memory.

    A process that died while a component was being moved must come back with exactly the components that are
    its own then. Only the coordinator writes, before a move is decided for the old node.
    """

    def __init__(self, run_id: str, folder: Path | None = None) -> None:
        """Names the file.

        Args:
            run_id: The run.
            folder: None: the run's own.
        """
        self.path = (folder or base_folder() / run_name(run_id)) / FILE_NAME

    def read(self) -> dict[str, Home]:
        """Returns the homes of the components that were moved; nothing where none was.

        Raises:
            ConfigurationError: The file is damaged.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: Home(str(home["process"]), str(home["device"])) for name, home in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{self.path}: where moved components are cannot be read: {error}; stop the "
                "stack and start it again"
            ) from error

    def write(self, component: str, home: Home) -> None:
        """Records a component's home; the file is always whole.

        Raises:
            OSError: It cannot be written.
        """
        homes = self.read() | {component: home}
        text = json.dumps({name: {"process": h.process, "device": h.device} for name, h in homes.items()})
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.path, text)
