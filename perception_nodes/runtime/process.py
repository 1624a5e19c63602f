"""Main of a process of the stack: pins itself, hosts the nodes the deployment gives it, and shuts them down
in order.
"""

from __future__ import annotations

import signal

if (
    __name__ == "__main__"
):  # while the rest is imported, an interrupt ends the process instead of printing a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import faulthandler
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perception_core.configuration import ConfigurationError, nearest
from perception_core.deployment import ResolvedDeployment, load_deployment
from perception_nodes.runtime.affinity import describe_affinities, pin_process, thread_affinities
from perception_nodes.runtime.exit_codes import EXIT_CONFIGURATION, EXIT_FAULT, EXIT_OK
from perception_nodes.runtime.parent_death import die_with_parent
from perception_nodes.runtime.ready_signal import signal_ready
from perception_nodes.runtime.stop_request import StopRequest, process_stop

if TYPE_CHECKING:
    from perception_nodes.runtime.stack_node import ProcessContext, StackNode

ROS_ARGUMENTS = "--ros-args"

#: A shutdown that hangs longer than this is cut off.
SHUTDOWN_LIMIT_S = 20.0
#: More exceptions than this within the window are not bad input but a defect: the process ends and is
#: started again.
EXCEPTION_LIMIT = 20
EXCEPTION_WINDOW_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process until it is asked to stop.

    Args:
        argv: Arguments; None: the command line. What follows `--ros-args` goes to rclpy.

    Returns:
        Exit code: 0 stopped as asked, 2 configuration error, 1 fault.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index(ROS_ARGUMENTS) if ROS_ARGUMENTS in given else len(given)
    arguments, ros_arguments = _parse(given[:split]), given[split:]
    _handle_signals(process_stop())
    die_with_parent()
    try:
        resolved = load_deployment(arguments.deployment, arguments.override)
        nodes = tuple(arguments.nodes) or _nodes_of(resolved, arguments.process)
        executor = arguments.executor or _executor_of(resolved, arguments.process)
        if arguments.process in resolved.processes:
            pin_process(resolved.cores_of(arguments.process))
        if arguments.use_sim_time:
            ros_arguments += [ROS_ARGUMENTS, "-p", "use_sim_time:=true", "--"]
        code = _run(resolved, arguments, nodes, executor, ros_arguments)
        _ignore_signals()
        return code
    except ConfigurationError as error:
        print(f"{arguments.process}: {error}", file=sys.stderr, flush=True)
        return EXIT_CONFIGURATION


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mmmt_process", description=__doc__)
    parser.add_argument("--deployment", required=True, help="deployment file, or its name in hw_configs/")
    parser.add_argument("--process", required=True, help="name of the process in the deployment")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY:=VALUE", help="may be repeated"
    )
    parser.add_argument("--run-id", default="manual", help="run of the stack this process belongs to")
    parser.add_argument("--use-sim-time", action="store_true", help="nodes follow /clock")
    parser.add_argument("--nodes", nargs="*", default=[], help="host these nodes instead of the deployment's")
    parser.add_argument(
        "--executor", choices=("single", "multi", "events"), help="instead of the deployment's"
    )
    return parser.parse_args(argv)


def _nodes_of(resolved: ResolvedDeployment, process: str) -> tuple[str, ...]:
    if process not in resolved.processes:
        raise ConfigurationError(
            f"{resolved.path}: no process '{process}'" + nearest(process, resolved.processes)
        )
    return resolved.processes[process]


def _executor_of(resolved: ResolvedDeployment, process: str) -> str:
    spec = resolved.process_specs.get(process)
    return spec.executor if spec else "single"


def _run(
    resolved: ResolvedDeployment,
    arguments: argparse.Namespace,
    names: tuple[str, ...],
    executor_kind: str,
    ros_arguments: Sequence[str],
) -> int:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from perception_core.movable import possible_homes
    from perception_nodes.runtime.executor import make_executor
    from perception_nodes.runtime.stack_node import ProcessContext

    stop = process_stop()
    rclpy.init(args=[sys.argv[0], *ros_arguments], signal_handler_options=SignalHandlerOptions.NO)
    nodes: list[StackNode] = []
    hosting: Any = None
    homes = {
        component: tuple(dict.fromkeys(home.process for home in possible))
        for component, possible in possible_homes(resolved.deployment, resolved.processes).items()
    }
    hosts_movable = any(arguments.process in processes for processes in homes.values())
    try:
        spec = resolved.process_specs.get(arguments.process)
        executor = make_executor(executor_kind, spec.threads if spec else 2)  # type: ignore[arg-type]
        context = ProcessContext(
            deployment=resolved.deployment,
            rig=resolved.rig,
            bundle=resolved.bundle,
            process=arguments.process,
            processes={**resolved.processes, arguments.process: names},
            run_id=arguments.run_id,
            rig_path=resolved.rig_path,
            homes=homes,
        )
        came: dict[str, str] = {}
        if hosts_movable:
            names, came = _nodes_at_home(context, names)
        for name in names:
            nodes.append(_create(name, context))
        for component, device in came.items():
            nodes.append(_create_moved(component, device, context))
        if not _bring_up(nodes, stop):
            return stop.exit_code
        for node in nodes:
            executor.add_node(node)
        if hosts_movable:
            hosting = _offer_hosting(context, executor, nodes)
        spinning = _SpinThread(executor, arguments.process, stop)
        _say_ready(arguments, names, executor_kind)
        spinning.start()
        stop.wait()
        spinning.end()
        print(f"{arguments.process}: stopping: {stop.reason}", file=sys.stderr, flush=True)
        return stop.exit_code
    finally:
        _limit_shutdown(arguments.process)
        if hosting is not None:
            hosting.close()
        _take_down(nodes)
        rclpy.try_shutdown()


def _handle_signals(stop: StopRequest) -> None:
    def on_signal(number: int, frame: Any) -> None:
        stop.set(signal.Signals(number).name)

    # rclpy's own handlers would shut the context down at once, and the nodes could not say that they stop.
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)


def _ignore_signals() -> None:
    """All is done: a signal that comes now would be what the process ends with, instead of its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _create(name: str, context: ProcessContext) -> StackNode:
    """Makes a node and refuses parameters it does not have, which rclpy would ignore.

    Raises:
        ConfigurationError: The deployment gives the node a parameter that it does not declare.
    """
    from perception_nodes.runtime.node_registry import node_factory

    node = node_factory(name, context.bundle.spec)(context)
    for key in context.deployment.parameters.get(name, {}):
        if not node.has_parameter(key):
            declared = (
                node._parameters
            )  # rclpy lists declared parameters nowhere public without a prefix query
            node.destroy_node()
            raise ConfigurationError(
                f"parameters.{name}.{key}: {name} has no such parameter" + nearest(key, declared)
            )
    return node


def _nodes_at_home(context: ProcessContext, names: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the nodes of the deployment that are still this process', and the components that were moved
    here before it was started again, with their devices.

    Raises:
        ConfigurationError: The run's record of moved components is damaged.
    """
    from perception_nodes.runtime.component_host import nodes_at_home
    from perception_nodes.runtime.placement_record import PlacementRecord

    recorded = PlacementRecord(context.run_id).read()
    return nodes_at_home(names, context.deployment.placement, recorded, context.process)


def _create_moved(component: str, device: str, context: ProcessContext) -> StackNode:
    from perception_nodes.runtime.component_host import make_moved_node

    return make_moved_node(context, component, device, owns_frames=True)


def _offer_hosting(context: ProcessContext, executor: Any, nodes: list[StackNode]) -> Any:
    """Lets the coordinator move components into and out of this process."""
    from perception_nodes.runtime.component_host import ComponentHost, HostService

    return HostService(ComponentHost(context, executor, nodes), context.process, executor)


def _bring_up(nodes: Sequence[StackNode], stop: StopRequest) -> bool:
    """Configures and activates all nodes, consumers before producers; each says itself what went wrong.

    Returns:
        Whether all are active; if not, `stop` holds the exit code.
    """
    from rclpy.lifecycle import TransitionCallbackReturn

    for verb in ("configure", "activate"):
        for node in reversed(nodes):
            if stop.is_set():
                return False
            outcome = getattr(node, f"trigger_{verb}")()
            if outcome != TransitionCallbackReturn.SUCCESS:
                reason = f"node '{node.get_name()}' could not {verb}"
                print(f"{node.process_context.process}: {reason}; ending", file=sys.stderr, flush=True)
                stop.set(reason, EXIT_FAULT)
                return False
    gc.collect()
    gc.freeze()  # what exists now lives as long as the process: no collection walks through it again
    return True


def _take_down(nodes: Sequence[StackNode]) -> None:
    """Shuts nodes down through their lifecycle, producers first; one that fails does not keep the others."""
    for node in nodes:
        try:
            node.trigger_shutdown()
        except Exception as error:  # the rest must still be shut down
            print(
                f"{node.get_name()} did not shut down: {type(error).__name__}: {error}",
                file=sys.stderr,
                flush=True,
            )
    for node in nodes:
        node.destroy_node()


def _limit_shutdown(process: str) -> None:
    def cut_off() -> None:
        print(f"{process}: shutdown took over {SHUTDOWN_LIMIT_S:g} s; cut off", file=sys.stderr, flush=True)
        os._exit(EXIT_FAULT)

    timer = threading.Timer(SHUTDOWN_LIMIT_S, cut_off)
    timer.daemon = True
    timer.start()
    # A node that the middleware does not let go of (eProsima/Fast-DDS issue 6502) keeps Python's lock too, so
    # that no timer of Python runs; this one needs no Python. Its exit code is EXIT_FAULT as well.
    faulthandler.dump_traceback_later(SHUTDOWN_LIMIT_S + 1.0, exit=True)


def _say_ready(arguments: argparse.Namespace, names: Sequence[str], executor_kind: str) -> None:
    threads = describe_affinities(thread_affinities())
    text = f"{arguments.process}: ready: pid {os.getpid()}, executor {executor_kind}, "
    text += f"nodes {', '.join(names)}; {threads}"
    print(text, file=sys.stderr, flush=True)
    signal_ready()


class _SpinThread:
    """Spins an executor beside the main thread, which is thus free for signals.

    An exception that a callback let through is logged and spinning goes on; a storm of them ends the process.
    """

    def __init__(self, executor: Any, process: str, stop: StopRequest) -> None:
        self._executor = executor
        self._process = process
        self._stop = stop
        self._ending = False
        self._faults: list[float] = []
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stops spinning and waits for the callback under way."""
        self._ending = True
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(SHUTDOWN_LIMIT_S / 4)

    def _spin(self) -> None:
        import rclpy
        from rclpy.executors import ExternalShutdownException, ShutdownException

        while not self._ending and rclpy.ok():
            try:
                self._executor.spin()
                break
            except (ExternalShutdownException, ShutdownException):
                break
            except Exception:
                if self._ending:
                    break
                print(
                    f"{self._process}: a callback failed:\n{traceback.format_exc()}",
                    file=sys.stderr,
                    flush=True,
                )
                if self._too_many_faults():
                    self._stop.set(
                        f"over {EXCEPTION_LIMIT} callbacks failed in {EXCEPTION_WINDOW_S:g} s", EXIT_FAULT
                    )
                    break
        if not self._ending:
            self._stop.set("the executor ended", EXIT_FAULT)

    def _too_many_faults(self) -> bool:
        now = time.monotonic()
        self._faults = [at for at in self._faults if now - at < EXCEPTION_WINDOW_S] + [now]
        return len(self._faults) > EXCEPTION_LIMIT


def run() -> None:
    """Entry point `mmmt_process`."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code if code in (EXIT_OK, EXIT_FAULT, EXIT_CONFIGURATION) else EXIT_FAULT)


if __name__ == "__main__":
    run()
