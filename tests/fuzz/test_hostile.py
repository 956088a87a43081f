"""Files made to do harm, one of each kind that is guarded against."""

from __future__ import annotations

import ast
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ddfast
from ddfast._outside import parse_json, path_inside
from ddfast._tensor_files import read_safetensors, read_torch
from ddfast.data import DecodeError, decode_image, open_source
from ddfast.data.decode import DecodeOptions, decode_with_pillow
from ddfast.evaluation import figures
from ddfast.evaluation.teacher import find_teacher
from ddfast.runs import Ledger, RunError
from ddfast.runs.folder import clear_folder
from ddfast.runs.upkeep import clean, retry
from ddfast.store import DistilledSet
from ddfast.store import codec as store_codec
from ddfast.train.trajectories import read_replay_buffers
from tests.fuzz.fuzz_seeds import jpegs, make_run, make_set
from tests.fuzz.fuzz_targets import CONFIG, OUTPUTS, TASKS

_REFUSED = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load",
    "marshal.loads", "yaml.load", "shelve.open",
}  # fmt: skip


def _altered(path: Path, change: Any, entry: str = "data.pkl") -> None:
    """One entry of an archive of torch exchanged for ``change`` of it."""
    data = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(data) as archive, zipfile.ZipFile(path, "w") as written:
        for name in archive.namelist():
            content = archive.read(name)
            written.writestr(name, change(content) if name.endswith(entry) else content)


def test_a_storage_shorter_than_its_tensor_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    _altered(path, lambda content: content[:8], "data/0")
    with pytest.raises(ValueError, match="should have 4000 bytes, but has 8"):
        read_torch(path)


def test_a_tensor_larger_than_its_storage_gets_no_room(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    number = pickle.BININT2 + struct.pack("<H", 1000)
    size = pickle.BININT + struct.pack("<i", 1 << 30)
    _altered(path, lambda content: size.join(content.rsplit(number, 1)))
    with pytest.raises(ValueError, match=r"a tensor of shape \[1073741824\] that needs 1073741824 numbers of 1000"):
        read_torch(path)


def test_code_in_an_archive_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    for zipped in (True, False):
        torch.save({"w": Evil()}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"weights_only|Weights only"):
            read_torch(tmp_path / "a.pt")
        assert not (tmp_path / "made").exists()


def test_lists_of_one_list_are_no_experts(tmp_path: Path) -> None:
    many: Any = [torch.ones(3)]
    for _ in range(12):
        many = [many] * 10
    torch.save(many, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="more than 10000000 objects"):
        read_torch(tmp_path / "a.pt")
    torch.save([[[torch.ones(1000)] * 50] * 50], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(RunError, match="its snapshots have more bytes than the file's"):
        list(read_replay_buffers([tmp_path / "replay_buffer_0.pt"]))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    data = io.BytesIO((tmp_path / "a.pt").read_bytes())
    with zipfile.ZipFile(data) as archive, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as written:
        for name in archive.namelist():
            written.writestr(name, archive.read(name))
    with pytest.raises(ValueError, match="is compressed, which torch does not write"):
        read_torch(tmp_path / "a.pt")


def test_an_archive_that_readers_of_zip_take_for_two_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    plain = path.read_bytes()
    for data in (plain + plain, plain + b"\0" * 30, plain[:-2] + b"\4\0abcd"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"its archive|end is not where"):
            read_torch(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a/DATA/0", "upper and lower case"), ("A/data.PKL", "other archives"), ("a/data/\u00e9", "unusual names")],
)
def test_entries_that_torch_may_take_for_others_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    """It looks names up without regard to case, and takes the archive's name from the first entry."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"short")
    with pytest.raises(ValueError, match=reason):
        read_torch(path)


def test_archives_of_any_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "\u00e9 \U0001f600.pt"
    torch.save({"w": torch.ones(3)}, path)
    assert read_torch(path)["w"].tolist() == [1, 1, 1]


def test_an_archive_without_the_64_bit_end_is_read(tmp_path: Path) -> None:
    """Other programs leave it out of small ones; torch writes it always."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, path)
    _altered(path, lambda content: content)
    assert read_torch(path)["w"].tolist() == [1, 1, 1]
    plain = path.read_bytes()
    path.write_bytes(plain + plain)
    with pytest.raises(ValueError, match="before or after its archive"):
        read_torch(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    make_set(tmp_path / "set", form="safetensors")
    for name in ("images.safetensors", "manifest.json"):
        (tmp_path / "set" / name).unlink()
        os.mkfifo(tmp_path / "set" / name)
        with pytest.raises((ValueError, OSError), match=r"is no file|missing"):
            DistilledSet.load(tmp_path / "set")
    for read in (read_torch, read_safetensors):
        with pytest.raises(OSError, match="is no file"):
            read(tmp_path / "set/manifest.json")


@pytest.mark.parametrize("text", ["NaN", "[1e999]", "9" * 5000, "[" * 100_000, b"\xff", ""])
def test_text_that_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_names_and_links_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in/link").symlink_to("../secret")
    (tmp_path / "in/own").write_text("y")
    (tmp_path / "in/alias").symlink_to("own")
    assert path_inside(tmp_path / "in", "alias", "here").read_text() == "y"
    for name in ("../secret", "/etc/passwd", "a/../../secret", "link", "", ".", "C:\\x", "a\x00", None):
        with pytest.raises(ValueError, match=r"stays in the folder|leads out of the folder"):
            path_inside(tmp_path / "in", name, "here")


def test_the_teacher_that_a_manifest_names_is_in_its_folder(tmp_path: Path) -> None:
    made = DistilledSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",))
    made.manifest = {"soft_labels": {"teacher": "../teacher.safetensors"}}
    with pytest.raises(ValueError, match="soft_labels"):
        made.save(tmp_path / "set")
    with pytest.raises(ValueError, match="stays in the folder"):
        find_teacher("auto", None, made, None, folder=tmp_path)


def test_records_that_lead_out_delete_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "made", stage=2)
    run, precious = tmp_path / "made/run", tmp_path / "made/precious.txt"
    precious.write_text("keep")
    records = (run / "records.json").read_text().replace("00001/a.bin", "../precious.txt")
    (run / "records.json").write_text(records)
    with Ledger.resume(run, TASKS, CONFIG, outputs=OUTPUTS) as ledger:
        assert not ledger.completed(TASKS[1])
        with pytest.raises(RunError, match="2 of 3 tasks are done"):
            ledger.finish(keep_files=False)
    assert precious.read_text() == "keep"


def test_links_in_a_run_are_not_followed(tmp_path: Path) -> None:
    make_run(tmp_path / "made")
    run, outside = tmp_path / "made/run", tmp_path / "outside"
    (run / "tasks").rename(outside)
    (run / "tasks").symlink_to(outside)
    before = sorted(os.listdir(outside))
    for act in (clean, retry):
        with pytest.raises(RunError, match="is a link"):
            act(run)
    assert sorted(os.listdir(outside)) == before
    (run / "tasks").unlink()
    outside.rename(run / "tasks")
    (tmp_path / "elsewhere").mkdir()
    (run / "00001").symlink_to(tmp_path / "elsewhere")
    with Ledger.resume(run, TASKS, CONFIG, outputs=OUTPUTS) as ledger, ledger.claim(TASKS[1]) as task:
        with pytest.raises(RunError, match="reached by a link"):
            task.write_bytes("00001/a.bin", b"x")
        task.complete()
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("pattern", ["*", "*.py", "?????", "[a-z]*", "../x", ".*", "a/b", 3])
def test_a_stranger_does_not_say_what_overwrite_deletes(tmp_path: Path, pattern: object) -> None:
    run = (
        f'{{"format": "ddfast.run", "outputs": [{str(pattern) if pattern == 3 else chr(34) + str(pattern) + chr(34)}]}}'
    )
    (tmp_path / "run.json").write_text(run)
    (tmp_path / "thesis.py").write_text("x")
    with pytest.raises(RunError, match="Nothing was deleted"):
        clear_folder(tmp_path)
    assert (tmp_path / "thesis.py").exists()


def test_links_among_class_folders_do_not_go_on_for_ever(tmp_path: Path) -> None:
    (tmp_path / "data/ant").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "data/ant/a.jpg")
    for name in "xyz":
        (tmp_path / f"data/ant/{name}").symlink_to(".")
    assert open_source(tmp_path / "data").count(0) == 1


def test_annotations_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "val_annotations.txt").write_text("../../secret.jpg\tn1\n")
    with pytest.raises(ValueError, match=r"names '../../secret.jpg', expected a file"):
        open_source(tmp_path)


def test_file_names_that_are_no_text_reach_the_manifest_and_come_back(tmp_path: Path) -> None:
    made = DistilledSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a\udc80",))
    made.manifest = {"images": [{"cells": [{"sample": "a/\udcff.jpg", "box": [0, 0, 4, 4], "score": 1.0}]}]}
    read = DistilledSet.load(made.save(tmp_path / "set"))
    assert read.class_names == ("a\udc80",)
    assert read.manifest["images"][0]["cells"][0]["sample"] == "a/\udcff.jpg"


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_one_limit_for_the_pixels_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    big = bytearray(jpegs()["plain"])
    at = big.index(b"\xff\xc0")
    big[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(DecodeError, match="65000 x 65000 pixels are more than the limit of 89478485"):
        decode_image(bytes(big))
    for decode in (decode_with_pillow, store_codec.decode_image):
        with pytest.raises(ValueError, match="exceeds limit"):
            decode(bytes(big))
    big[at + 5 : at + 9] = struct.pack(">HH", 10000, 10000)
    for decode in (decode_image, decode_with_pillow, store_codec.decode_image):
        with pytest.raises(ValueError, match="10000 pixels are more than the limit of 89478485"):
            decode(bytes(big))
    monkeypatch.setenv("DDFAST_MAX_IMAGE_PIXELS", "100")
    assert DecodeOptions().max_pixels == 100
    with pytest.raises(ValueError, match="DDFAST_MAX_IMAGE_PIXELS"):
        store_codec.decode_image(jpegs()["plain"])
    monkeypatch.setenv("DDFAST_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ValueError, match="expected a whole number of pixels"):
        DecodeOptions()


def test_scans_without_end_and_other_formats_are_refused() -> None:
    data = bytearray(jpegs()["progressive"])
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 8000, 8000)
    data += b"\xff\xda\0\x08\1\1\0\0\0\0" * 5000
    for decode in (decode_image, decode_with_pillow):
        with pytest.raises(DecodeError, match="more than 1000 scans"):
            decode(bytes(data))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for decode in (decode_image, store_codec.decode_image):
        with pytest.raises(ValueError, match=r"not a picture|not a readable image"):
            decode(eps)


def test_arrays_of_nothing_but_zeros_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, count in (("images", 300 << 20), ("labels", 8)):
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
            with archive.open(f"{name}.npy", "w") as file:
                file.write(head.getvalue())
                for _ in range(count >> 20):
                    file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="more than pictures shrink"):
        open_source(tmp_path / "a.npz")


def test_class_names_do_not_become_script() -> None:
    name = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>"
    made = DistilledSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), (name,))
    page = figures.contact_sheet(made)
    assert "<script" not in page
    assert "<img src" not in page
    assert page.count("'") % 2 == 0


def test_nothing_of_ours_unpickles_evaluates_or_calls_a_shell() -> None:
    found = []
    for path in sorted(Path(ddfast.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                shell = any(option.arg == "shell" for option in node.keywords)
                if shell or name in _REFUSED:
                    found.append((path.name, name))
    # the helper's is a pipe from its own parent; the archive's has been looked through
    assert found == [("_tensor_files.py", "torch.load"), ("helper.py", "pickle.load")]
