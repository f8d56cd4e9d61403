"""`import`: the result for a released file, and every refused file."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import types
from collections import defaultdict

import pytest
import torch
from golden import golden_condition, golden_input, official_weights
from safetensors.torch import save_file
from typer.testing import CliRunner

from zigma_bench.backbones.official import import_checkpoint, load_official, open_model
from zigma_bench.backbones.official.card import read_card
from zigma_bench.backbones.official.released import sha256_of
from zigma_bench.cli.app import app
from zigma_bench.errors import NotReady, UsageError

from .conftest import DIT, PLAIN, TEXT, dit_weights


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(done, *words):
    assert isinstance(done.exception, UsageError | NotReady), done.exception
    for word in words:
        assert word in str(done.exception)


@torch.no_grad()
@pytest.mark.parametrize("case", [PLAIN, TEXT], ids=["plain", "text"])
def test_zigma_from_a_training_checkpoint(case, tmp_path):
    """The folder's network gives the same output as the loaded one; `module.` and other entries of the file don't
    matter."""
    good = official_weights(case["param_order"])
    bad = {name: torch.zeros_like(value) for name, value in good.items()}
    args = argparse.Namespace(lr=1e-4, options=defaultdict(list))
    given = {"model": bad, "ema": {f"module.{name}": value for name, value in good.items()}, "opt": {}, "args": args}
    torch.save(given | {"train_steps": 3, "best_fid": 2.5}, tmp_path / "zigma.pt")
    (tmp_path / "config.yaml").write_text(json.dumps(case["config"] | {"depth": 9}))
    words = ("--config", tmp_path / "config.yaml", "--set", "depth=3", "--out", tmp_path / "model")
    done = run("import", "zigma", tmp_path / "zigma.pt", *words)
    assert done.exit_code == 0, done.exception
    assert sorted(os.listdir(tmp_path / "model")) == ["README.md", "card.json", "model.safetensors"]
    card = read_card(tmp_path / "model")
    assert (card.official, card.source.weights, card.path, card.prediction) == ("zigma", "ema", "linear", "velocity")
    assert card.source.sha256 == sha256_of(tmp_path / "zigma.pt") and card.source.sha256 in done.stdout
    assert card.shape == tuple(case["input_shape"][1:])
    x, t, y = golden_input(case["input_shape"]), torch.tensor(case["t"]), golden_condition(case)
    assert torch.equal(open_model(tmp_path / "model")(x, t, y), load_official("zigma", good, case["config"])(x, t, y))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dit", "sit"])
def test_positions_that_are_no_formulas_come_back(kind, model):
    """The toy file's table is random: it lies in the folder, and is what the opened network adds."""
    weights = dit_weights()
    x, t, y = golden_input([2, 3, 4, 4]), torch.tensor([0.1, 0.8]), torch.tensor([0, 5])
    opened = open_model(model(kind))
    assert torch.equal(opened.positions.table, weights["pos_embed"])
    assert torch.equal(opened(x, t, y), load_official(kind, weights, DIT)(x, t, y))


def test_safetensors_are_read_too(tmp_path):
    save_file(dit_weights(), tmp_path / "dit.safetensors")
    card = import_checkpoint("dit", tmp_path / "dit.safetensors", DIT, tmp_path / "model")
    assert (card.source.weights, card.learned_sigma, card.condition.null_class) == ("only", True, True)
    with pytest.raises(UsageError, match="it is not called 'ema'"):
        import_checkpoint("dit", tmp_path / "dit.safetensors", DIT, tmp_path / "other", weights="ema")


class Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_reported_and_not_run(zipped, released, tmp_path):
    weights = {"ema": dit_weights(), "args": Code(tmp_path / "ran")}
    torch.save(weights, tmp_path / "dit.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"contains code.*posix\.mkdir.*none of it was run"):
        import_checkpoint("dit", tmp_path / "dit.pt", DIT, tmp_path / "model")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("saved", ["pickle", "zip", "legacy"])
def test_code_is_reported_in_every_kind_of_pickle(protocol, saved, tmp_path):
    content = {"ema": {"a": "a"}, "more": [Code(tmp_path / "ran"), os.path.join]}
    if saved == "pickle":
        (tmp_path / "dit.pt").write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        zipped = saved == "zip"
        torch.save(content, tmp_path / "dit.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"contains code.*posix\.mkdir.*none of it was run"):
        import_checkpoint("dit", tmp_path / "dit.pt", DIT, tmp_path / "model")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "model").exists()


def test_a_pickle_that_is_cut_off_is_damaged(tmp_path):
    (tmp_path / "dit.pt").write_bytes(pickle.dumps({"ema": "weights " * 9}, protocol=4)[:40])
    with pytest.raises(UsageError, match=r"damaged.*40 bytes"):
        import_checkpoint("dit", tmp_path / "dit.pt", DIT, tmp_path / "model")


def test_the_arguments_of_a_training_script_are_passed_over(tmp_path, monkeypatch):
    """A class of OmegaConf's name is neither imported nor called: its module is gone when the file is read."""
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig:
        def __init__(self, **content):
            self.content = content

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module.DictConfig = DictConfig
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", module)
        torch.save({"ema": dit_weights(), "args": DictConfig(lr=1, sub=DictConfig())}, tmp_path / "dit.pt")
    assert import_checkpoint("dit", tmp_path / "dit.pt", DIT, tmp_path / "model").source.weights == "ema"


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_truncated_file_is_reported(keep, released, tmp_path):
    file, config = released("dit")
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    refused(run("import", "dit", file, "--config", config, "--out", tmp_path / "model"), "damaged", "dit.pt", "bytes")


def test_every_tensor_of_another_size_is_listed(released, tmp_path):
    file, _ = released("dit", DIT)
    with pytest.raises(UsageError) as caught:
        import_checkpoint("dit", file, DIT | {"depth": 3, "num_classes": 7}, tmp_path / "model")
    told = str(caught.value)
    assert "missing: blocks.2.attn.qkv.weight" in told and "blocks.2.adaLN_modulation.1.bias" in told
    assert "y_embedder.embedding_table.weight [6, 32] instead of [8, 32]" in told and "dit.pt" in told
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "depht=3"], "did you mean 'depth'"),
        (["--set", "depth"], "KEY=VALUE"),
        (["--set", "depth=deep"], "option 'depth'"),
        (["--path", "gvp"], "omit path and prediction"),
        (["--weights", "model"], "it is not called 'model'"),
    ],
)
def test_options_that_do_not_fit(words, told, released, tmp_path):
    file, config = released("dit")
    refused(run("import", "dit", file, "--config", config, "--out", tmp_path / "model", *words), told)


def test_configs_and_folders_that_do_not_fit(released, tmp_path):
    file, config = released("dit")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty.yaml").write_text("")
    for name, told in (
        ("list.json", "not a mapping"),
        ("bad.json", "not valid JSON"),
        ("empty.yaml", "the config is empty"),
    ):
        refused(run("import", "dit", file, "--config", tmp_path / name, "--out", tmp_path / "model"), told, name)
    refused(run("import", "dat", file, "--config", config, "--out", tmp_path / "model"), "did you mean 'dit'")
    refused(run("import", "dit", tmp_path / "no.pt", "--config", config, "--out", tmp_path / "m"), "no such checkpoint")
    refused(run("import", "dit", file, "--config", config, "--out", tmp_path), "the folder is in use")


def test_a_folder_whose_weights_changed_is_refused(model):
    folder = model("dit")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match=r"don't match the model card.*import the model again"):
        open_model(folder)
    (folder / "card.json").write_text('{"format": 2}')
    with pytest.raises(UsageError, match=r"card\.json: not a valid model card"):
        open_model(folder)
    with pytest.raises(UsageError, match="there is no model"):
        open_model(folder.parent)
