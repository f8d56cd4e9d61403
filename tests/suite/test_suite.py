"""Suites: reading, and every fault with its file, line, key, expected value, actual value and nearest name."""

from __future__ import annotations

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.suite import load_suite


def fault(path, **rest) -> str:
    with pytest.raises(UsageError) as caught:
        load_suite(path, **rest)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_reads_every_key(write_suite):
    suite, source = load_suite(write_suite())
    assert source.question == "Does the test suite run?"
    assert [c.backbone.name for c in suite.compare] == ["zigma", "dit"]
    assert suite.compare[0].scans[1].options == {"paths": 8}
    assert suite.seeds == (0, 1)
    assert suite.train.learning_rate == 1e-4
    assert source.where("compare", 0, "scans", 1).startswith(f"{source.file}:6")


def test_numbers_are_those_of_yaml_1_2(write_suite):
    suite, _ = load_suite(write_suite(("{batch: 16}", "{batch: 016, learning_rate: 1e-3, ema: 0}")))
    assert suite.train.batch == 16
    assert suite.train.learning_rate == 1e-3
    assert suite.train.ema == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: tiny", "nme: tiny", ["suite.yaml:2", "unknown key 'nme'", "did you mean 'name'"]),
        ("budget: {images: 64}", "budget: {imags: 64}", [":9", "budget.imags", "did you mean 'images'"]),
        ("budget: {images: 64}", "budget: {images: '64'}", [":9", "budget.images", "valid integer", "got '64'"]),
        ("budget: {images: 64}", "budget: {images: 64, flops: 1e9}", ["exactly one of images, flops and seconds"]),
        ("budget: {images: 64}", "budget: {images: 0}", ["budget.images", "greater than or equal to 1", "got 0"]),
        ("seeds: [0, 1]", "seeds: [0, 0]", [":8", "a seed is listed twice"]),
        ("seeds: [0, 1]", "seeds: [0, 1.5]", [":8", "seeds.1", "valid integer"]),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", [":9", "the key 'seeds' is listed twice"]),
        ("{batch: 16}", "{batch: 16, precision: fp8}", ["train.precision", "'auto', 'fp32', 'bf16' or 'fp16'", "fp8"]),
        ("evaluations: 2", "solver: heun, evaluations: 3", ["heun needs an even number"]),
        ("evaluations: 2", "solver: dopri5, evaluations: 3", ["dopri5 chooses its evaluations itself"]),
        (
            "evaluations: 2",
            "solver: heun-sde, evaluations: 4",
            [":12", "two evaluations per step and one for the last step"],
        ),
        ("evaluations: 2", "solver: heun-sde, last_step: none, evaluations: 3", ["two evaluations per step; got"]),
        ("evaluations: 2", "solver: euler-maruyama, evaluations: 1", ["at least one step before it"]),
        ("evaluations: 2", "solver: ddim, evaluations: 1", ["needs 2 to 1000"]),
        ("evaluations: 2", "solver: ddpm, evaluations: 1001", ["needs 2 to 1000"]),
        ("evaluations: 2", "solver: rk4", [":12", "sample.solver", "'euler', 'heun', 'dopri5'", "got 'rk4'"]),
        ("evaluations: 2", "interval: [0, 1.5]", ["sample.interval.1", "less than or equal to 1"]),
        ("evaluations: 2", "guidance: {scal: 2.0}", ["sample.guidance.scal", "did you mean 'scale'"]),
        ("{batch: 16}", "{batch: 16, path: gvb}", [":11", "train.path", "'linear', 'gvp' or 'vp'", "got 'gvb'"]),
        ("data: {name: digits}", "data: &d {name: digits}", [":3", "anchors, aliases and tags"]),
        ("data: {name: digits}", "data: !!python/object:os.system {name: digits}", ["anchors, aliases and tags"]),
        ("name: tiny", "name: ../../etc", ["key name", "got '../../etc'"]),
        ("name: tiny", "name: [tiny", ["not valid YAML"]),
        ("name: tiny", "1: tiny", [":2", "a key is not text"]),
        ("{images: 64}", "{images: 1_0}", ["budget.images", "valid integer", "got '1_0'"]),
        ("{images: 64}", "{seconds: 1e999}", ["budget.seconds", "finite number"]),
        ("seeds: [0, 1]", "efficiency: {stages: [sample, sample]}", ["a stage is listed twice"]),
    ],
)
def test_faults_say_where_and_what(write_suite, old, new, words):
    text = fault(write_suite((old, new)))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("content", "word"), [("", "empty"), ("# only\n", "empty"), ("- a\n", "a list"), ("x", "a single value")]
)
def test_a_suite_that_is_no_mapping(tmp_path, content, word):
    path = tmp_path / "s.yaml"
    path.write_text(content)
    assert word in fault(path)


def test_an_alias_bomb_is_refused_unread(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    assert "anchors, aliases and tags" in fault(path)


def test_a_missing_file_suggests_its_neighbour(write_suite, tmp_path):
    write_suite()
    text = fault(tmp_path / "suit.yaml")
    assert "there is no such suite" in text
    assert "did you mean 'suite.yaml'" in text


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in fault(path)


def test_settings_are_laid_over_the_file(write_suite):
    path = write_suite()
    suite, _ = load_suite(path, settings=["budget.images=20000", "compare.0.scans.1.paths=2", "data.validation=500"])
    assert suite.budget.images == 20_000
    assert suite.compare[0].scans[1].options == {"paths": 2}
    assert suite.data.options == {"validation": 500}
    suite, _ = load_suite(path, settings=["compare.0.scans.0.paths=2"])
    assert suite.compare[0].scans[0].model_dump() == {"name": "raster", "paths": 2}
    assert "--set budget.images=x" in fault(path, settings=["budget.images=x"])
    assert "KEY.PATH=VALUE" in fault(path, settings=["budget"])
    assert "is not an index of the list" in fault(path, settings=["compare.7.scans=[raster]"])
    assert "did you mean 'budget'" in fault(path, settings=["budgt.images=3"])


@pytest.mark.parametrize("start", ["\ufeff", "---\n", "%YAML 1.1\n---\n", "\n\n", "\ufeff---\r\n", "#\n"])
def test_the_question_can_follow_lines_that_editors_insert(tmp_path, suite_text, start):
    path = tmp_path / "suite.yaml"
    path.write_text(start + suite_text, encoding="utf-8")
    assert load_suite(path)[1].question == "Does the test suite run?"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("budget:", "Budget:", [":9", "unknown key 'Budget'", "did you mean 'budget'"]),
        ("seeds: [0, 1]", f"seeds: [{'7' * 5000}]", [":8", "seeds.0", "5,000 digits"]),
        ("name: tiny", f"{'7' * 900}: tiny", [":2", "900 digits"]),
        ("seeds: [0, 1]", f"seeds: {'[' * 1000}{']' * 1000}", [":8", "nested too deeply"]),
        ("name: tiny", "name: \x00tiny", [":2", "is not allowed"]),
        ("name: tiny", "name: tiny\n---\nname: b", ["another document"]),
        ("name: tiny", "? [a]\n: tiny", [":2", "a key is not text"]),
        ("name: tiny", f"name: {'x' * 100_000}", ["key name", "characters)"]),
    ],
)
def test_what_would_break_a_reader_is_one_short_line(write_suite, old, new, words):
    text = fault(write_suite((old, new)))
    for word in words:
        assert word in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    "setting",
    [f"budget.images={'7' * 5000}", "train=&a [*a]", "seeds=*x", f"seeds={'[' * 1000}", f"seeds.{'9' * 5000}=1",
     f"{'a.' * 2000}b=1", "train=!!python/name:os.system x"],
)  # fmt: skip
def test_settings_that_would_break_a_reader(write_suite, setting):
    text = fault(write_suite(), settings=[setting])
    assert "--set" in text
    assert len(text) < 1000


def test_a_suite_in_another_encoding(tmp_path, suite_text):
    path = tmp_path / "suite.yaml"
    path.write_bytes(suite_text.encode("utf-16"))
    assert "not encoded as UTF-8" in fault(path)


def test_a_network_that_is_too_deep_is_refused_at_once(write_suite):
    from zigma_bench.plan import make_plan
    from zigma_bench.plugins.discovery import catalogue

    suite, source = load_suite(write_suite(), settings=["compare.0.backbone.depth=1000000000"])
    with pytest.raises(UsageError, match=r"whole number from 1 to 512"):
        make_plan(suite, source, catalogue())
