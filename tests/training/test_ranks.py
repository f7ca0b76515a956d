"""Several processes train one pair: as one does, but for noise."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from torch.utils.data import DataLoader, DistributedSampler

import pyro_vae as pv
from pyro_vae.models.code_book import CodeBook
from pyro_vae.ranks import Ranks
from pyro_vae.training.ranks import TrainingRanks, check_apart

PROGRAM = Path(ranked.__file__)


def started(*trainings: dict) -> str:
    """What two processes say of the trainings that ``ranked.py`` does in them; empty where they all end."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    done = subprocess.run([*launch, json.dumps(trainings)], capture_output=True, text=True, timeout=300, check=False)
    return done.stderr if done.returncode else ""


def test_two_ranks_train_as_one_process_and_go_on_with_the_same_bits(tmp_path):
    """And a rank of other data is refused."""

    def told(name: str, ranks: int = 2) -> list[dict]:
        return [torch.load(tmp_path / f"{name}.{rank}", weights_only=True) for rank in range(ranks)]

    run = {"out": str(tmp_path / "run")}
    ranked.main([{"to": str(tmp_path / "one"), "epochs": 4}])
    said = started({"to": str(tmp_path / "two"), "epochs": 4}, {"to": str(tmp_path / "half"), "epochs": 2, **run})
    assert not said, said
    (one,), two = told("one", 1), told("two")
    for name, value in one["weights"].items():
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name])
        assert torch.allclose(two[0]["weights"][name], value, rtol=0, atol=1e-12)
    assert two[0]["history"] == pytest.approx(one["history"], abs=1e-12)
    assert torch.allclose(two[1]["evidence"], one["evidence"], atol=0.05)  # of other draws
    assert torch.equal(two[0]["evidence"], two[1]["evidence"])
    apart = {"to": str(tmp_path / "apart"), "epochs": 1, "apart": 1.0}
    said = started({"to": str(tmp_path / "again"), "epochs": 4, **run}, apart)
    assert "rank 1 was given another run than the first rank (training data is of" in said
    assert all(torch.equal(two[0]["weights"][name], value) for name, value in told("again")[1]["weights"].items())
    assert not torch.equal(told("half")[1]["weights"]["logits.weight"], two[1]["weights"]["logits.weight"])


@pytest.mark.slow
def test_two_hosts_train_as_one_process(tmp_path):
    """Each in a network namespace of its own, with a wire between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    hosts, wire = ("pyro-vae-a", "pyro-vae-b"), ("pv-a", "pv-b")
    setup = [f"netns add {host}" for host in hosts] + [f"link add {wire[0]} type veth peer name {wire[1]}"]
    for number, (host, end) in enumerate(zip(hosts, wire, strict=True), 1):
        setup += [f"link set {end} netns {host}", f"-n {host} addr add 10.77.0.{number}/24 dev {end}"]
        setup += [f"-n {host} link set {end} up", f"-n {host} link set lo up"]
    ranked.main([{"to": str(tmp_path / "one"), "epochs": 2}])
    one = torch.load(tmp_path / "one.0", weights_only=True)
    try:
        for words in setup:
            if subprocess.run(["ip", *words.split()], capture_output=True, check=False).returncode:
                pytest.skip("no network namespaces can be made here")
        running = []
        for rank, (host, end) in enumerate(zip(hosts, wire, strict=True)):
            launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"]
            launch += ["--nproc-per-node=1", "--master-addr=10.77.0.1", "--master-port=29577"]
            command = ["ip", "netns", "exec", host, *launch, str(PROGRAM)]
            command.append(json.dumps([{"to": str(tmp_path / "two"), "epochs": 2}]))

            running.append(subprocess.Popen(command, env={**os.environ, "GLOO_SOCKET_IFNAME": end}))
        assert [process.wait(timeout=300) for process in running] == [0, 0]
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)
    for rank in range(2):
        found = torch.load(tmp_path / f"two.{rank}", weights_only=True)["weights"]
        assert all(torch.allclose(found[name], value, rtol=0, atol=1e-12) for name, value in one["weights"].items())


@pytest.mark.parametrize(
    ("estimator", "prior", "words"),
    [
        (pv.SGVB_A(), None, "CodeBook follows the means"),
        (pv.FreeBits(0.1), None, "FreeBits depends on all data"),
        (pv.Capacity(1.0), None, "Capacity depends on all data"),
        (pv.ScoreFunction(), None, "baseline of ScoreFunction"),
        (pv.SGVB_B(), pv.WeightPrior(count="batch"), "once a batch"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_coupled_through_the_batch_is_refused_by_name(estimator, prior, words):
    ranks = TrainingRanks()
    ranks.count = 2
    with pytest.raises(ValueError, match=words):
        check_apart(CodeBook(4, 2), estimator, prior, 8, ranks)


def test_a_rank_that_gets_no_answer_says_so(monkeypatch):
    def ended(*args):
        raise RuntimeError("connection closed by peer")

    ranks = TrainingRanks()
    ranks.count = 2
    for name in ("all_reduce", "broadcast", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, ended)
    for wait in (lambda: ranks.sum(torch.ones(1)), lambda: ranks.share(1), lambda: ranks.begin(torch.nn.Linear(1, 1))):
        with pytest.raises(ConnectionError, match="rank 0 of 2 got no answer"):
            wait()


def test_a_loader_that_deals_out_the_data_itself_is_refused():
    ranks = TrainingRanks()
    ranks.count = 2
    x = torch.randn(8, 1)
    loader = DataLoader(x, batch_size=4, sampler=DistributedSampler(x, num_replicas=2, rank=0))
    with pytest.raises(ValueError, match=r"DistributedSampler .*leave it out"):
        check_apart(torch.nn.Linear(1, 1), pv.SGVB_B(), None, 8, ranks, [loader])


def test_slices_are_all_of_a_batch_and_one_process_has_it_whole():
    ranks = Ranks()
    assert (ranks.rank, ranks.count) == (0, 1)
    assert torch.equal(ranks.slice_of((torch.arange(7),))[0], torch.arange(7))
    ranks.count = 3
    parts = []
    for ranks.rank in range(3):
        parts.append(ranks.slice_of((torch.arange(7),))[0])
    assert torch.equal(torch.cat(parts), torch.arange(7))
