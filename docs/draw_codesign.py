"""Draws docs/codesign.png: two schedules of fuller-tiny, with power left out and with power counted.

    python docs/draw_codesign.py

Latencies are modelled with the platform orin-like; multiply-adds are counted on the network itself.
"""

from __future__ import annotations

from pathlib import Path

from perception_core.bundle import Bundle
from perception_core.models import create_model
from perception_core.models.profile import profile_model
from perception_core.platform.component_latency import RooflineLatency
from perception_core.platform.component_work import work_of_bundle
from perception_core.platform.devices import load_platform
from perception_core.platform.placement.build import HardwareLoss, build_problem
from perception_core.platform.placement.exact import ExactSolver
from perception_core.platform.schedule import schedule
from perception_core.platform.task_graph import task_graph
from perception_core.rig import load_rig
from training.figures import save_figure
from training.search.codesign.charts import ScheduleView, draw_schedules

ROOT = Path(__file__).resolve().parent.parent
PERIOD_MS = 100.0
#: Milliseconds a watt is worth in the second schedule.
GAMMA2 = 2.0


def main() -> None:
    """Solves both problems and draws them."""
    bundle = Bundle.open(ROOT / "bundles" / "fuller-tiny")
    rig = load_rig(ROOT / "hw_configs" / "rigs" / "nuscenes.yaml")
    model = create_model(bundle.spec.model.name, **bundle.spec.model.arguments)
    profiles = profile_model(model, cameras=len(rig.cameras))
    work = work_of_bundle(bundle, rig, {name: float(p.multiply_adds) for name, p in profiles.items()})
    graph, platform = task_graph(bundle.spec, rig, work), load_platform("orin-like")
    views = []
    for title, gamma2 in (
        ("power left out (γ2 = 0)", 0.0),
        (f"power counted (γ2 = {GAMMA2:g} ms/W)", GAMMA2),
    ):
        loss = HardwareLoss(gamma2=gamma2, power="average", period_ms=PERIOD_MS)
        problem = build_problem(graph, platform, RooflineLatency(platform, work), loss)
        found = ExactSolver().solve(problem)
        views.append(ScheduleView(title, problem, schedule(problem, found.placement)))
        print(title, problem.by_name(found.placement), views[-1].schedule)
    print(save_figure(draw_schedules(views), ROOT / "docs" / "codesign.png"))


if __name__ == "__main__":
    main()
