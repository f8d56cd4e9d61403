"""Data sets that a person provides: read from their layout, reported with instructions if missing, checked as a
whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.images import captions_of, labels_of
from zigma_bench.data.sources import coco, mm_celeba, ucf101
from zigma_bench.data.sources.options import CocoOptions, MmCelebaOptions, Ucf101Options
from zigma_bench.errors import BadImage, NotReady
from zigma_bench.plugins.discovery import catalogue

av = pytest.importorskip("av")

WHOLE = "no problems (8 training images, 4 held out)"


def picture(path: Path, number: int, size: tuple[int, int] = (20, 16)) -> None:
    """An image with a blue value of 10 times its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (0, 0, 10 * number)).save(path, quality=95)


@pytest.fixture
def faces(tmp_path: Path) -> MmCelebaOptions:
    root = tmp_path / "faces"
    for number in range(12):
        picture(root / "images" / f"{number}.jpg", number)
        text = root / "celeba-caption" / f"{number}.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text(f"face {number}\n\na person of number {number}\n")
    return MmCelebaOptions(str(root), 8, images=12, validation=4)


@pytest.fixture
def photographs(tmp_path: Path) -> CocoOptions:
    root = tmp_path / "coco"
    for name, count in (("train", 6), ("val", 3)):
        files = [f"COCO_{name}2014_{number:012}.jpg" for number in range(count)]
        for number, file in enumerate(files):
            picture(root / f"{name}2014" / file, number)
        found = {
            "images": [{"id": 7 * i, "file_name": file} for i, file in reversed(list(enumerate(files)))],
            "annotations": [
                {"image_id": 7 * i, "caption": f"{what} {i} "} for what in ("a", "the") for i in range(count)
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"captions_{name}2014.json").write_text(json.dumps(found))
    return CocoOptions(str(root), resolution=8, train_images=6, validation_images=3)


@pytest.fixture
def actions(tmp_path: Path) -> Ucf101Options:
    root = tmp_path / "ucf101"
    classes = [f"Class{number:03}" for number in range(1, 102)]
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist/classInd.txt").write_text("".join(f"{i} {c}\r\n" for i, c in enumerate(classes, 1)))
    names = [f"{c}/v_{c}_g0{g}_c01.avi" for c in (classes[0], classes[100]) for g in (1, 2, 3)]
    lists = {"train": [name for name in names if "g01" not in name], "test": [n for n in names if "g01" in n]}
    for name, listed in lists.items():
        ends = [f" {classes.index(n.split('/')[0]) + 1}" if name == "train" else "" for n in listed]
        text = "".join(f"{n}{end}\n" for n, end in zip(listed, ends, strict=True))
        (root / f"ucfTrainTestlist/{name}list01.txt").write_text(text)
    for name in names:
        path = root / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
            for number in range(12):
                frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 20 * number, np.uint8), format="rgb24")
                for packet in [*stream.encode(frame), *(stream.encode() if number == 11 else [])]:
                    container.mux(packet)
    return Ucf101Options(str(root), 8, frames=4, stride=2, clips=2)


def found(name: str, options: Any) -> list[str]:
    return [str(problem) for problem in check_dataset_files(catalogue().get("dataset", name), options).problems]


def test_faces_have_their_texts(faces: MmCelebaOptions) -> None:
    facts, splits = mm_celeba.describe(faces), mm_celeba.load(faces)
    assert facts.missing == () and facts.captions and facts.shape == (3, 8, 8)
    assert (len(splits.train), len(splits.validation)) == (8, 4)
    for side in (splits.train, splits.validation):
        pixels, texts = side.take(range(len(side))), captions_of(side, range(len(side)))
        for image, given in zip(pixels, texts, strict=True):
            number = round(float(image[2].mean()) / 10)
            assert given == (f"face {number}", f"a person of number {number}")
    assert found("mm-celeba", faces) == []


def test_photographs_have_their_own_split(photographs: CocoOptions) -> None:
    facts, splits = coco.describe(photographs), coco.load(photographs)
    assert facts.missing == () and facts.captions and facts.held_out == 3
    for side, count in ((splits.train, 6), (splits.validation, 3)):
        assert len(side) == count
        numbers = [round(float(image[2].mean()) / 10) for image in side.take(range(count))]
        assert captions_of(side, range(count)) == [(f"a {number}", f"the {number}") for number in numbers]
    assert found("coco", photographs) == []


def test_actions_are_clips_with_classes(actions: Ucf101Options) -> None:
    facts, splits = ucf101.describe(actions), ucf101.load(actions)
    assert facts.missing == () and facts.shape == (4, 3, 8, 8) and facts.held_out == 4
    assert (len(splits.train), len(splits.validation)) == (8, 4)
    assert labels_of(splits.train, range(8)).tolist() == [0] * 4 + [100] * 4
    clips = splits.train.take([0, 1])
    assert [round(float(frame.mean()) / 20) for frame in clips[0]] == [0, 2, 4, 6]
    assert [round(float(frame.mean()) / 20) for frame in clips[1]] == [5, 7, 9, 11]
    (lacks,) = found("ucf101", actions)  # the lists of this test name videos of two classes alone
    assert "99 of the 101 classes have no training image" in lacks


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mm-celeba", MmCelebaOptions, ["non-commercial", "IIGROUP/MM-CelebA-HQ-Dataset", "celeba-caption/29999.txt"]),
        ("coco", CocoOptions, ["CC BY 4.0", "cocodataset.org", "annotations/captions_val2014.json"]),
        ("ucf101", Ucf101Options, ["101 classes", "crcv.ucf.edu", "ucfTrainTestlist/classInd.txt"]),
    ],
)
def test_without_data_a_plan_says_what_to_get_and_how_to_check_it(
    name: str, options: Any, words: list[str], tmp_path: Path
) -> None:
    spec, chosen = catalogue().get("dataset", name), options(str(tmp_path / "absent"))
    (missing,) = spec.facts.describe(chosen).missing
    for word in [*words, f"zigma-bench data check {name} --from {tmp_path / 'absent'}"]:
        assert word in f"{missing.what} {missing.do}"
    with pytest.raises(NotReady, match="is missing"):
        spec.load()(chosen)
    assert len(found(name, chosen)) == 1


def test_another_fingerprint_where_a_file_or_an_option_is_another(
    faces: MmCelebaOptions, photographs: CocoOptions, actions: Ucf101Options
) -> None:
    from dataclasses import replace

    for module, options, other, file in (
        (mm_celeba, faces, replace(faces, resolution=16), "celeba-caption/3.txt"),
        (coco, photographs, replace(photographs, resolution=16), "annotations/captions_val2014.json"),
        (ucf101, actions, replace(actions, stride=1), "UCF-101/Class001/v_Class001_g01_c01.avi"),
    ):
        first = module.describe(options).fingerprint
        assert first != module.describe(other).fingerprint
        with (Path(options.root) / file).open("ab") as opened:
            opened.write(b"  \n")
        assert first != module.describe(options).fingerprint


def test_the_check_of_faces_names_every_fault(faces: MmCelebaOptions) -> None:
    root = Path(faces.root)
    (root / "images/2.jpg").unlink()
    (root / "images/5.jpg").write_text("no picture")
    (root / "images/6.jpg").write_bytes((root / "images/7.jpg").read_bytes()[:300])
    (root / "images/8.jpg").write_bytes(b"")
    (root / "celeba-caption/3.txt").unlink()
    (root / "celeba-caption/4.txt").write_text("\n  \n")
    problems = "\n".join(found("mm-celeba", faces))
    for place in ("images/2.jpg", "images/5.jpg", "images/6.jpg", "images/8.jpg", "caption/3.txt", "caption/4.txt"):
        assert place in problems, problems
    assert "there are 11 of 12 images" in problems and len(problems.splitlines()) == 7
    with pytest.raises(NotReady, match="there are 11 of 12 images, and captions of 10"):
        mm_celeba.load(faces)


def test_the_check_of_photographs_names_every_fault(photographs: CocoOptions) -> None:
    root = Path(photographs.root)
    texts = root / "annotations/captions_train2014.json"
    told = json.loads(texts.read_text())
    told["annotations"] = [item for item in told["annotations"] if item["image_id"] != 14]
    texts.write_text(json.dumps(told))
    picture(root / "val2014/COCO_val2014_000000000009.jpg", 1)
    (root / "val2014/COCO_val2014_000000000001.jpg").unlink()
    (root / "train2014/COCO_train2014_000000000004.jpg").write_text("no picture")
    problems = "\n".join(found("coco", photographs))
    for word in (
        "COCO_train2014_000000000002.jpg: the image has no captions",
        "COCO_val2014_000000000009.jpg: the image has no captions",
        "COCO_val2014_000000000001.jpg: the image is missing",
        "COCO_train2014_000000000004.jpg: the image can't be decoded",
    ):
        assert word in problems, problems
    with pytest.raises(BadImage, match="has no captions"):
        coco.load(photographs)
    texts.write_text('{"images": []')
    assert "the file of captions can't be read" in "\n".join(found("coco", photographs))


def test_a_file_of_texts_can_not_reach_out_of_its_folder(photographs: CocoOptions) -> None:
    texts = Path(photographs.root) / "annotations/captions_train2014.json"
    texts.write_text(texts.read_text().replace("COCO_train2014_000000000003.jpg", "../../secret.jpg"))
    with pytest.raises(BadImage, match="points outside the folder"):
        coco.load(photographs)


def test_the_check_of_actions_names_every_fault(actions: Ucf101Options) -> None:
    videos = Path(actions.root) / "UCF-101"
    first, second, third = (videos / f"Class001/v_Class001_g0{g}_c01.avi" for g in (1, 2, 3))
    first.unlink()
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    third.write_text("no video")
    problems = "\n".join(found("ucf101", actions))
    for path in (first, second, third):
        assert str(path) in problems, problems
    assert "there are 5 of 6 videos in its lists" in problems and len(problems.splitlines()) == 4
    short = Ucf101Options(actions.root, 8, frames=16)
    assert found("ucf101", short)[-1].count("too short; expected at least 16 frames") == 1


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("classInd.txt", "1 One\n", "not the list of classes"),
        ("trainlist01.txt", "../../secret/a.avi 1\n", "trainlist01.txt:1: not a video of a known class"),
        ("testlist01.txt", "\n", "the list is empty"),
    ],
)
def test_invalid_lists_are_named(actions: Ucf101Options, file: str, text: str, words: str) -> None:
    (Path(actions.root) / "ucfTrainTestlist" / file).write_text(text)
    with pytest.raises(NotReady, match=words):
        ucf101.describe(actions)


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zigma_bench", "data", "check", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def test_the_command_lists_faults_with_code_3(
    faces: MmCelebaOptions, program: Callable[..., Any], tmp_path: Path
) -> None:
    words = ("mm-celeba", "--set", "images=12", "--set", "validation=4", "--set", "resolution=8", "--from", faces.root)
    done = program(*words)
    assert (done.returncode, done.stdout) == (0, f"mm-celeba: 12 images checked, {WHOLE}\n"), done.stderr
    shutil.copy(Path(faces.root) / "celeba-caption/1.txt", Path(faces.root) / "images/1.jpg")
    done = program(*words)
    assert done.returncode == 3 and "images/1.jpg: the image can't be decoded" in done.stdout
    assert "12 images checked, 1 problem(s)" in done.stdout
    (item,) = json.loads(program(*words, "--json").stdout)["checked"]
    assert item["images"] == 12 and item["problems"][0]["where"].endswith("images/1.jpg")


def test_the_command_takes_a_suite(
    faces: MmCelebaOptions, write_suite: Callable[..., Path], program: Callable[..., Any]
) -> None:
    sets = ", ".join(f"{{name: mm-celeba, images: 12, validation: 4, resolution: {side}}}" for side in (8, 16))
    path = write_suite(("data: {name: digits}", f"data: [{sets}]"))
    done = program(path, "--from", faces.root)
    assert (done.returncode, done.stdout) == (0, f"mm-celeba: 12 images checked, {WHOLE}\n"), done.stderr
    done = program(path, "--from", faces.root + "-absent")
    assert done.returncode == 3 and "zigma-bench data check mm-celeba" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mm-celebs"], "did you mean 'mm-celeba'"),
        (["digits", "--from", "here"], "is not in a folder"),
        (["digits", "--set", "validation"], "not a KEY=VALUE setting"),
        (["digits", "--set", "validation=x"], "option 'validation' has a wrong value"),
        (["absent.yaml"], "there is no such suite"),
    ],
)
def test_wrong_words_are_reported(words: list[str], expected: str, program: Callable[..., Any]) -> None:
    done = program(*words)
    assert done.returncode == 2 and expected in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
