"""The node that hosts one component of a bundle on the device the deployment gives it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmmt_msgs.msg import StageTiming, TensorAnnouncement
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.parameter import Parameter

from perception_core.backends import load_component
from perception_core.platform.frame_holder import FrameHolder
from perception_core.platform.replacement import FrameGate
from perception_nodes.runtime.announcement_join import AnnouncementJoin
from perception_nodes.runtime.device_worker import Job, acquire_worker, release_worker
from perception_nodes.runtime.stack_node import ProcessContext, StackNode, monotonic_ns
from perception_nodes.runtime.warm_loading import load_beside
from perception_nodes.transport.announcement import Announcer, Listening
from perception_nodes.transport.interface import TensorError, TensorReader, TensorWriter
from perception_nodes.transport.transport import make_reader, make_writer

#: A frame whose inputs are all announced: by producer, the announcement that came last, and when it came.
_Complete = tuple[Mapping[str, TensorAnnouncement], TensorAnnouncement, int]


class ComponentNode(StackNode):
    """Joins its producers' announcements by trace, runs the component, and announces its outputs.

    The node's own code is the same whatever the placement: the device worker, the backend and the transport
    come from the deployment.

    Attributes:
        component: The component.
        frames: Where the component may be moved: decides which frames are this node's (docs/replacement.md);
            None for all others.
    """

    def __init__(
        self,
        context: ProcessContext,
        component: str,
        *,
        node_name: str | None = None,
        owns_frames: bool = True,
    ) -> None:
        """Creates the node; nothing is loaded before `configure`.

        Args:
            context: The process' context; its deployment places the component on this node's device.
            component: Name of the component in the bundle.
            node_name: ROS name of a node whose component has been moved; None: the component's name.
            owns_frames: False for the new node of a component that is being moved: it loads beside the
                device's work instead of before it, and owns no frame until it is told.
        """
        super().__init__(context, component, node_name)
        self.component = component
        self._loads_beside = not owns_frames
        self.frames: FrameHolder[_Complete] | None = None
        if component in context.homes:
            gate = FrameGate.of_running_node() if owns_frames else FrameGate()
            self.frames = FrameHolder(gate, context.deployment.transport.ring_size - 1)
        self.spec = context.bundle.spec.components[component]
        self.device_name = context.deployment.placement[component]
        self.device = context.deployment.device_for(component)
        self.declare_parameter(
            "slow_down_ms",
            0.0,
            ParameterDescriptor(
                description="Sleeps this long in every inference, to try how the stack bears a slow component"
            ),
        )
        self.declare_parameter(
            "queue_limit",
            2,
            ParameterDescriptor(
                description="Frames that may wait for the device; beyond it the oldest is dropped"
            ),
        )
        self._slow_down_s = 0.0
        self.add_on_set_parameters_callback(self._on_parameters)
        self._on_parameters([self.get_parameter("slow_down_ms")])
        self._readers: dict[str, TensorReader] = {}
        self._writer: TensorWriter | None = None
        self._announcer: Any = None
        self._runner: Any = None
        self._worker: Any = None
        self._listening: list[Listening] = []
        self._join: AnnouncementJoin[TensorAnnouncement] | None = None
        # Producers of this process announce on their own threads.
        self._join_lock = threading.Lock()
        self._working = False

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "slow_down_ms":
                if not 0.0 <= float(parameter.value) <= 60_000.0:
                    return SetParametersResult(successful=False, reason="slow_down_ms must lie in 0..60000")
                self._slow_down_s = float(parameter.value) / 1e3
        return SetParametersResult(successful=True)

    # -- lifecycle
    # ---------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Loads the network on its device and opens the transport."""
        bundle = self.process_context.bundle
        name = self.component
        limit = int(self.get_parameter("queue_limit").value)
        self._worker = acquire_worker(self.device_name, self.device, limit)
        load = functools.partial(load_component, bundle, name, self.device)
        self._runner = load_beside(load, self.device) if self._loads_beside else self._worker.call(load)
        self._producers = tuple(dict.fromkeys(bundle.producer_of(tensor) for tensor in self.spec.inputs))
        self._readers = {
            producer: make_reader(self.process_context, consumer=name, producer=producer)
            for producer in self._producers
        }
        self._join = AnnouncementJoin(self._producers, self.process_context.deployment.transport.ring_size)
        self.setup_outputs()

    def setup_outputs(self) -> None:
        """Opens the sending side; a task head decodes to messages instead."""
        self._writer = make_writer(self.process_context, self.component)
        self._announcer = Announcer(self, self.process_context, self.component)

    def start(self) -> None:
        """Subscribes to the producers."""
        self._working = True
        for producer in self._producers:
            callback = functools.partial(self._on_announcement, producer)
            self._listening.append(Listening(self, self.process_context, producer, callback))

    def stop(self) -> None:
        """Unsubscribes; the frame being worked on is finished."""
        self._working = False
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        if self._join is not None:
            with self._join_lock:
                self._join.clear()
        if self._worker is not None:
            self._worker.discard(self.get_name())
            self._worker.call(lambda: None)  # returns when the job under way has ended

    def release(self) -> None:
        """Frees the network and the transport."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._runner = None
        if self._worker is not None:
            release_worker(self.device_name)
            self._worker = None

    # -- work -----------------------------------------------------------------------------------------------
    # ---------

    def _on_announcement(self, producer: str, announcement: TensorAnnouncement) -> None:
        assert self._join is not None
        with self._join_lock:
            parts = self._join.add(producer, announcement.trace_id, announcement)
        if parts is None or not self._working:
            return
        complete = (parts, announcement, monotonic_ns())
        if self.frames is None or self.frames.hear(announcement.trace_id, complete):
            self._submit(complete)

    def work_on(self, held: Iterable[_Complete]) -> None:
        """Works on frames that `frames` has held and now says are this node's."""
        for complete in held:
            self._submit(complete)

    def _submit(self, complete: _Complete) -> None:
        parts, announcement, queued_ns = complete
        received = [sensor.received_ns for sensor in announcement.sensors if sensor.valid]
        run: Callable[[], None] = functools.partial(self._process, parts, queued_ns)
        drop: Callable[[], None] = functools.partial(
            self._report_drop, announcement, queued_ns, "a newer frame took its place"
        )
        if self.frames is not None:
            run, drop = self.frames.counted(run), self.frames.counted(drop)
        self._worker.submit(
            Job(order=max(received, default=queued_ns), owner=self.get_name(), run=run, drop=drop)
        )

    def _process(self, parts: Mapping[str, TensorAnnouncement], queued_ns: int) -> None:
        """Runs on the device's worker thread; whatever one frame does, the next one is worked on."""
        started_ns = monotonic_ns()
        frame = next(iter(parts.values()))
        try:
            inputs: dict[str, torch.Tensor] = {}
            for producer, announcement in parts.items():
                inputs.update(self._readers[producer].take(announcement.trace_id, announcement.tensors))
            compute_started_ns = monotonic_ns()
            if self._slow_down_s:
                time.sleep(self._slow_down_s)
            outputs = self._runner.run({name: inputs[name] for name in self.spec.inputs})
            compute_ns = monotonic_ns() - compute_started_ns
            self.emit(frame, outputs)
            if self.frames is not None:
                self.frames.gave_output(frame.trace_id)
        except TensorError as error:
            self.fault("tensor_unavailable", str(error), error=False)
            self._report_drop(frame, queued_ns, str(error))
            return
        except (
            Exception
        ) as error:  # one bad frame must not end the component: reported, counted, and on to the next
            self.fault("inference_failed", f"{type(error).__name__}: {error}")
            self.report_timing(
                trace_id=frame.trace_id,
                stamp=frame.header.stamp,
                sensors=frame.sensors,
                queued_ns=queued_ns,
                started_ns=started_ns,
                done_ns=monotonic_ns(),
                task=self.spec.task or "",
                stage=self.component,
                device=self.device_name,
                outcome=StageTiming.OUTCOME_FAILED,
                detail=f"{type(error).__name__}: {error}",
            )
            return
        self.report_timing(
            trace_id=frame.trace_id,
            stamp=frame.header.stamp,
            sensors=frame.sensors,
            queued_ns=queued_ns,
            started_ns=started_ns,
            done_ns=monotonic_ns(),
            compute_ns=compute_ns,
            task=self.spec.task or "",
            stage=self.component,
            device=self.device_name,
        )
        self.after_emit(frame, outputs)

    def emit(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Hands the outputs of one frame on."""
        assert self._writer is not None
        self._announcer.publish(
            TensorAnnouncement(
                header=frame.header,
                trace_id=frame.trace_id,
                producer=self.component,
                sensors=frame.sensors,
                tensors=self._writer.put(frame.trace_id, outputs),
            )
        )

    def after_emit(self, frame: TensorAnnouncement, outputs: Mapping[str, torch.Tensor]) -> None:
        """Work that nobody waits for, such as pictures for a viewer; runs after the timing is reported."""

    def _report_drop(self, frame: TensorAnnouncement, queued_ns: int, why: str) -> None:
        now = monotonic_ns()
        self.report_timing(
            trace_id=frame.trace_id,
            stamp=frame.header.stamp,
            sensors=frame.sensors,
            queued_ns=queued_ns,
            started_ns=now,
            done_ns=now,
            task=self.spec.task or "",
            stage=self.component,
            device=self.device_name,
            outcome=StageTiming.OUTCOME_DROPPED,
            detail=why,
        )
