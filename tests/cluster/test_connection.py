"""Names of clusters are read before anything is connected."""

import sys

import pytest

from eagle_hf.cluster.connection import connect, is_ray
from eagle_hf.cluster.stages import Workers, check_room


@pytest.mark.parametrize("name", ["ray", "ray://host:10001", "ray:nonsense"])
def test_names_of_clusters(name):
    assert is_ray(name)


@pytest.mark.parametrize("name", ["local", "array", "rays"])
def test_names_of_something_else(name):
    assert not is_ray(name)


@pytest.mark.parametrize("name", ["ray://host", "ray://:10001", "ray:host:10001", "ray://host:p"])
def test_a_name_without_host_and_port_is_refused(name):
    with pytest.raises(ValueError, match="write ray for this machine, or ray://host:10001"):
        connect(name)


def test_ray_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'eagle_hf\[cluster\]'"):
        connect("ray")


@pytest.mark.parametrize("settings", [{"most": 0}, {"cpus": -1.0}, {"gpus": -0.5}])
def test_impossible_workers_are_refused(settings):
    with pytest.raises(ValueError, match="at least one worker"):
        Workers(**settings)


class Cluster:
    """What is asked of Ray: its nodes."""

    def __init__(self, *resources):
        self._nodes = [{"Alive": True, "Resources": found} for found in resources]

    def nodes(self):
        """The nodes of the cluster."""
        return self._nodes


def test_a_worker_that_fits_on_no_node_is_refused_instead_of_waited_for():
    cluster = Cluster({"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0})
    assert check_room(cluster, Workers(cpus=2)) == 3
    assert check_room(cluster, Workers(cpus=4)) == 1
    assert check_room(cluster, Workers(cpus=2, gpus=0.5)) == 1
    with pytest.raises(ValueError, match="4 CPUs and 1 GPUs, and none of the cluster's 2 nodes"):
        check_room(cluster, Workers(cpus=4, gpus=1))
