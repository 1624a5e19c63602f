"""Which variable names the Fast DDS profile, and when it is left alone."""

from __future__ import annotations

import pytest

from perception_nodes.transport import dds_profile


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        (None, "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_each_distribution_gets_the_variable_it_reads(
    monkeypatch: pytest.MonkeyPatch, distribution: str | None, variable: str
) -> None:
    for name in (*dds_profile.PROFILE_VARIABLES, "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    if distribution is not None:
        monkeypatch.setenv("ROS_DISTRO", distribution)
    assert dds_profile.environment() == {variable: str(dds_profile.profile_path())}


@pytest.mark.parametrize("variable", dds_profile.PROFILE_VARIABLES)
def test_a_profile_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in dds_profile.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/etc/own.xml")
    assert dds_profile.environment() == {}
