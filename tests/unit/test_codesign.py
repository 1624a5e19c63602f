"""Joint search of network and placement on a small space whose best is known by trying everything."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_core.configuration import ConfigurationError
from perception_core.platform.component_work import ComponentWork
from perception_core.platform.devices import ComputeRate, Platform, PlatformDevice, PlatformLink
from perception_core.platform.placement.build import HardwareLoss
from perception_core.platform.task_graph import GraphPath, GraphStage, TaskGraph
from training.search.codesign.evolution import JointSearch, SearchSettings
from training.search.codesign.hardware import HardwareTarget, deploy
from training.search.codesign.pareto import crowding, dominates, front_of, knee, ranks
from training.search.codesign.quality import FittedQuality, QualityRecord, QualityTable, TrainedQuality
from training.search.codesign.space import Architecture, ArchitectureSpace, Choice, fuller_space
from training.search.codesign.study import Study, read_study
from training.search.codesign.work import NetworkCost

#: Multiply-adds by width, and what a width gains in quality.
WIDTHS = {"medium": 4e9, "narrow": 1.5e9, "wide": 9e9}
GAINS = {"medium": 0.20, "narrow": 0.0, "wide": 0.25}

SPACE = ArchitectureSpace(
    "fuller_tiny",
    (
        Choice(
            "camera_width",
            {name: {"camera.neck_channels": k} for k, name in enumerate(WIDTHS)},
            ("camera_net",),
        ),
        Choice(
            "lidar_width",
            {name: {"lidar.pillar_channels": k} for k, name in enumerate(WIDTHS)},
            ("lidar_net",),
        ),
        Choice("modalities", {"both": {}, "lidar": {"modalities": ("lidar",)}}),
    ),
    {"control": {"enabled": True}},
)

PLATFORM = Platform(
    name="small",
    devices={
        "gpu0": PlatformDevice(
            kind="gpu", idle_w=3, busy_w=20, compute=ComputeRate(multiply_adds_per_s=4e11, overhead_ms=0.5)
        ),
        "cpu0": PlatformDevice(
            kind="cpu", idle_w=1, busy_w=8, compute=ComputeRate(multiply_adds_per_s=1e11, overhead_ms=0.2)
        ),
    },
    default_link=PlatformLink(bandwidth_gbps=50, latency_us=30),
)


class SmallWork:
    """Costs of the small space; asks nobody."""

    def cost(self, architecture: Architecture) -> NetworkCost:
        names = SPACE.names_of(architecture)
        work = {"lidar_net": ComponentWork(WIDTHS[names["lidar_width"]], 4_000_000, 0, 1_000_000)}
        stages = {"lidar_net": GraphStage("lidar_net", memory_mb=work["lidar_net"].memory_mb)}
        if names["modalities"] == "both":
            work["camera_net"] = ComponentWork(WIDTHS[names["camera_width"]], 8_000_000, 0, 1_000_000)
            stages["camera_net"] = GraphStage("camera_net")
        work["bev_fuser"] = ComponentWork(2e9, 2_000_000, 0, 1_000_000)
        stages["bev_fuser"] = GraphStage(
            "bev_fuser", dict.fromkeys((name for name in work if name != "bev_fuser"), 1_000_000)
        )
        work["control_head"] = ComponentWork(1e8, 100_000, 0, 100)
        stages["control_head"] = GraphStage("control_head", {"bev_fuser": 1_000_000})
        return NetworkCost(TaskGraph(stages, (GraphPath("lidar", "control", "control_head"),)), work)


def record_of(architecture: Architecture) -> QualityRecord:
    names = SPACE.names_of(architecture)
    gain = GAINS[names["lidar_width"]]
    gain += GAINS[names["camera_width"]] if names["modalities"] == "both" else -0.1
    return QualityRecord({"steering": 1.0 - gain}, {"detection3d": 2.0 - gain})


def all_architectures() -> list[Architecture]:
    return list(itertools.product(*(range(len(choice.options)) for choice in SPACE.choices)))


def full_table(path: Path | None = None) -> QualityTable:
    table = QualityTable(SPACE, path)
    for architecture in all_architectures():
        table.add(architecture, record_of(architecture))
    return table


def joint(gamma1: float = 0.004, gamma2: float = 0.2, **settings: object) -> JointSearch:
    target = HardwareTarget({"as it is": PLATFORM}, HardwareLoss(gamma2=gamma2))
    chosen = SearchSettings(gamma1=gamma1, population=6, generations=6, **settings)  # type: ignore[arg-type]
    return JointSearch(SPACE, full_table(), SmallWork(), target, chosen)


# -- space and quality


def test_options_become_arguments_of_the_model() -> None:
    space = fuller_space()
    hand_made = space.arguments_of(space.hand_made)
    assert hand_made == {"control": {"enabled": True}}
    chosen = space.from_names({"camera_width": "wide", "modalities": "camera", "sharing": "separate"})
    arguments = space.arguments_of(chosen)
    assert arguments["camera"]["neck_channels"] == 80
    assert arguments["modalities"] == ("camera",)
    assert arguments["bev_encoder"] == "separate"
    assert space.arguments_of(space.hand_made) == {"control": {"enabled": True}}  # nothing is shared
    with pytest.raises(ConfigurationError, match="did you mean 'wide'"):
        space.from_names({"camera_width": "wid"})


def test_every_option_of_the_fuller_space_is_a_valid_configuration() -> None:
    configuration = pytest.importorskip("perception_core.models.fuller.configuration")
    space = fuller_space()
    for k, choice in enumerate(space.choices):
        for option in range(len(choice.options)):
            architecture = (*space.hand_made[:k], option, *space.hand_made[k + 1 :])
            configuration.build_configuration("fuller_tiny", {}, space.arguments_of(architecture))


def test_hybrid_loss_is_eq_1() -> None:
    record = QualityRecord({"steering": 0.5, "speed": 0.25}, {"detection3d": 2.0, "map_segmentation": 1.0})
    assert record.hybrid_loss(0.1) == pytest.approx(0.75 + 0.1 * 3.0)


def test_records_survive_being_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "quality.jsonl"
    table = full_table(path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"choices": {"camera_width"')
    assert QualityTable(SPACE, path).records == table.records
    path.write_text('{"choices": {"camera_width": "huge"}, "control": {}, "tasks": {}}\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"quality.jsonl:1: .*no option 'huge'"):
        QualityTable(SPACE, path)


def test_a_network_is_trained_once() -> None:
    asked: list[object] = []

    def train(arguments: object) -> QualityRecord:
        asked.append(arguments)
        return QualityRecord({"steering": 1.0}, {})

    quality = TrainedQuality(QualityTable(SPACE), train)
    assert quality.quality((0, 0, 0)) == quality.quality((0, 0, 0))
    assert asked == [SPACE.arguments_of((0, 0, 0))]


def test_fitted_quality_keeps_what_was_trained_and_guesses_the_rest() -> None:
    everything = full_table()
    table = QualityTable(SPACE)
    for architecture in all_architectures():
        if architecture[2] == 0 and sum(architecture) % 2 == 0:
            table.add(architecture, everything.records[architecture])
    fitted = FittedQuality(table, ridge=1e-3)
    assert fitted.quality((0, 0, 0)) == everything.records[0, 0, 0]
    guess, truth = fitted.quality((0, 1, 0)), everything.records[0, 1, 0]
    assert not guess.measured
    assert guess.hybrid_loss(0.5) == pytest.approx(truth.hybrid_loss(0.5), abs=0.05)
    mean, terms = fitted.hybrid_effects(0.5)
    added = mean + sum(term[o] for term, o in zip(terms, (0, 1, 0), strict=True))
    assert added == pytest.approx(guess.hybrid_loss(0.5))
    with pytest.raises(ConfigurationError, match="at least two"):
        FittedQuality(QualityTable(SPACE))


# -- fronts

POINTS = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=25)


@given(POINTS)
def test_a_front_holds_what_nothing_betters(points: list[tuple[float, ...]]) -> None:
    front = front_of([(point, point) for point in points])
    assert front
    for point in points:
        if point in front:
            assert not any(dominates(other, point) for other in points)
        else:
            assert any(dominates(other, point) for other in front)
    assert len(front) == len(set(front))
    rank = ranks(points)
    assert {points[k] for k, value in enumerate(rank) if value == 0} == set(front)
    assert len(crowding(points)) == len(points)
    assert points[knee(points)] in front


# -- search


def exhaustive(search: JointSearch) -> float:
    return min(one.objective for architecture in all_architectures() for one in search.judge(architecture))


@pytest.mark.parametrize("gamma1", [0.0005, 0.004, 0.05])
def test_evolution_finds_the_best_network_and_placement(gamma1: float) -> None:
    search = joint(gamma1)
    study = search.run()
    assert study.best.objective == pytest.approx(exhaustive(search))


def test_joint_search_is_never_worse_than_one_after_the_other_and_by_hand() -> None:
    search = joint(0.02)
    study = search.run()
    after = search.best_network_then_best_placement(study)
    by_hand = search.hand_made()
    assert by_hand is not None
    assert study.best.objective < after.objective  # the best network is too slow to be worth it
    assert study.best.objective <= by_hand.objective
    assert after.loss_sw == min(one.loss_sw for one in study.candidates)


def test_the_same_seed_gives_the_same_study() -> None:
    assert joint().run().as_json() == joint().run().as_json()


def test_budgets_leave_slow_networks_out() -> None:
    search = joint()
    original = search.work.cost

    def with_budget(architecture: Architecture) -> NetworkCost:
        cost = original(architecture)
        paths = (GraphPath("lidar", "control", "control_head", budget_ms=20.0),)
        return NetworkCost(TaskGraph(cost.graph.stages, paths), cost.work)

    search.work.cost = with_budget  # type: ignore[method-assign]
    study = search.run()
    assert study.refused
    assert all(one.longest_path_ms <= 20.0 for one in study.candidates)


def test_nothing_fits() -> None:
    search = joint()
    tiny = PLATFORM.devices["cpu0"].model_copy(update={"memory_mb": 1.0})
    search.target = HardwareTarget({"as it is": PLATFORM.model_copy(update={"devices": {"cpu0": tiny}})})
    study = search.run()
    with pytest.raises(ConfigurationError, match="fits on the platform"):
        _ = study.best


def test_an_implementation_is_chosen_with_the_placement() -> None:
    fast = PLATFORM.devices["gpu0"].model_copy(update={"compute": ComputeRate(multiply_adds_per_s=2e12)})
    quick = PLATFORM.model_copy(update={"devices": PLATFORM.devices | {"gpu0": fast}})
    target = HardwareTarget({"slow": PLATFORM, "quick": quick}, HardwareLoss(gamma2=0.0))
    search = joint()
    found = deploy(target, search.work.cost((0, 0, 0)), search._solver, 0)
    assert found is not None
    assert found.implementation == "quick"


# -- the study


def test_a_study_is_read_back_and_picked_from(tmp_path: Path) -> None:
    search = joint()
    study = search.run()
    study.baselines["hand-made"] = study.candidates[0]
    path = tmp_path / "study.json"
    study.write(path)
    again = read_study(path, SPACE)
    assert again.as_json() == json.loads(json.dumps(study.as_json()))
    assert again.pick("objective") == study.best
    assert again.pick("latency").longest_path_ms == min(one.longest_path_ms for one in again.front)
    assert again.pick("power").power_w == min(one.power_w for one in again.front)
    assert again.pick("knee") in again.front
    middle = sorted(one.longest_path_ms for one in again.front)[len(again.front) // 2]
    assert again.pick(f"latency<={middle + 0.001},quality").longest_path_ms <= middle + 0.001
    refused = {
        "qualty": "did you mean 'quality'",
        "latency<=0,quality": "nothing on the front",
        "speed<=3,quality": "is no limit",
    }
    for wrong, message in refused.items():
        with pytest.raises(ConfigurationError, match=message):
            again.pick(wrong)


def test_a_study_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    joint().run().write(path)
    with pytest.raises(ConfigurationError, match="of model 'fuller_tiny', not of 'tag_tiny'"):
        read_study(path, ArchitectureSpace("tag_tiny", SPACE.choices, {}))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not a study"):
        read_study(path, SPACE)


def test_resuming_keeps_what_was_found() -> None:
    first = joint().run()
    again = joint(seed=9).run(resume=first)
    assert again.best.objective <= first.best.objective


def test_the_front_trades_power_for_latency() -> None:
    study: Study = joint(gamma2=0.05).run()
    front = study.front
    assert min(front, key=lambda one: one.power_w).longest_path_ms > min(one.longest_path_ms for one in front)


@pytest.mark.slow
def test_the_page_shows_front_and_schedules(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from perception_core.platform.schedule import schedule
    from training.search.codesign.charts import ScheduleView
    from training.search.codesign.page import write_page

    search = joint()
    study = search.run()
    problem = search.target.problem(search.work.cost(study.best.architecture), "as it is")
    view = ScheduleView("picked", problem, schedule(problem, problem.indices(dict(study.best.placement))))
    text = write_page(study, tmp_path / "index.html", [view]).read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "camera_width" in text
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "")


@pytest.mark.slow
def test_the_command_leaves_a_bundle_and_a_deployment_that_load(tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    from mmmt_cli.search_codesign import codesign
    from perception_core.deployment import load_deployment

    space = fuller_space("fuller_micro")
    quality = tmp_path / "quality.jsonl"
    table = QualityTable(space, quality)
    for k in range(4):  # figures of no training: only what becomes of them is looked at
        architecture = space.from_names(
            {"camera_width": ("medium", "narrow")[k % 2], "lidar_width": "narrow"}
        )
        table.add((*architecture[:-1], k // 2), QualityRecord({"steering": 1.0 + k}, {"detection3d": 2.0}))
    out = tmp_path / "out"
    app = typer.Typer()
    app.command()(codesign)
    arguments = ["--hw", "cpu-2core", "--quality", str(quality), "--out", str(out), "--model", "fuller_micro"]
    arguments += ["--population", "2", "--generations", "0", "--budget", "*->control=2000"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    study = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert {"best network, then placement", "hand-made"} == set(study["baselines"])
    deployment = load_deployment(out / "deployment.yaml")
    assert deployment.bundle.path == (out / "bundle").resolve()
    components = deployment.bundle.spec.components
    assert deployment.deployment.placement == {name: study["best"]["placement"][name] for name in components}
    assert "<svg" in (out / "index.html").read_text(encoding="utf-8")
