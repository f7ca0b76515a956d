"""Photographs: folders of several sizes and modes, and CelebA as torchvision lays it out."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pyro_vae.data import Data, load

SIZES = [(96, 64), (64, 96), (64, 64), (13, 200), (178, 218), (1, 1)]  # width, height
MODES = ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"]


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Noise, in red the column and in green the row."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    image = Image.fromarray(pixels)
    return image.quantize(64) if mode == "P" else image.convert(mode)


def only(found: Data) -> Tensor:
    """All data of a set without splits, as batches give them."""
    (x,) = next(found.train.batches(len(found.train)))
    return x


def whole(folder: Path, **options: Any) -> Tensor:
    return only(load(folder, valid_size=0, test_size=0, **options))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_sizes_and_modes_together(tmp_path: Path, suffix: str, channels: int) -> None:
    modes = [mode for mode in MODES if (mode in ("RGB", "L", "CMYK")) == (suffix == "jpg") or mode == "RGB"]
    for mode in modes:
        for size in SIZES:
            photograph(size, mode).save(tmp_path / f"{mode} {size}.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(tmp_path, image_size=64, channels=channels)
        x = whole(tmp_path, image_size=64, channels=channels)
    assert found.event_shape == (channels, 64, 64)
    assert x.shape == (len(modes) * len(SIZES), channels, 64, 64)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1
    assert x.max() > 0.5


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (65, 64), (64, 64)])
def test_the_central_square_is_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    image = photograph(size)
    image.save(tmp_path / "a.png")
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    expected = torch.from_numpy(np.array(image)[top : top + 64, left : left + 64]).movedim(-1, 0)
    torch.testing.assert_close(whole(tmp_path, image_size=64, channels=3)[0], expected / 255)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1"])
def test_a_mode_gives_the_colors_that_it_shows(tmp_path: Path, mode: str) -> None:
    image = photograph((16, 16), mode)
    image.save(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
    torch.testing.assert_close(whole(tmp_path, channels=3)[0], expected)
    gray = torch.from_numpy(np.array(image.convert("RGB").convert("L")))[None] / 255
    torch.testing.assert_close(whole(tmp_path, channels=1)[0], gray)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = photograph((16, 16), "P")
    image.save(tmp_path / "a.png", transparency=bytes(range(64)))
    expected = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
    torch.testing.assert_close(whole(tmp_path, channels=3)[0], expected)


def test_resizing_averages(tmp_path: Path) -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[::2, :, 0] = 200  # stripes that one pixel in two would lose
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = whole(tmp_path, image_size=64, channels=3)[0]
    assert (x[0, 1:-1] * 255 - 100).abs().max() < 5
    assert not x[1:].any()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_damaged_file_is_named(tmp_path: Path, format: str) -> None:
    buffer, path = io.BytesIO(), tmp_path / f"broken.{format.lower()}"
    photograph((40, 40)).save(buffer, format)
    photograph((40, 40)).save(tmp_path / "sound.png")
    content = buffer.getvalue()
    for share in (0.0, 0.1, 0.5):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=rf"{path.name} could not be read as an image.*Repair or remove it"):
            load(tmp_path, image_size=8, channels=3)


def test_a_picture_too_large_for_pil_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph((40, 40)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for channels in (None, 3):
        with pytest.raises(ValueError, match=r"huge\.png could not be read as an image"):
            load(tmp_path, image_size=8, channels=channels)


# CelebA


def celeba(root: Path) -> dict[str, list[int]]:
    """A tree as torchvision.datasets.CelebA unpacks it, with 3 + 2 + 1 images; their shades by part."""
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    lines, shades = [], {"train": [10, 20, 30], "valid": [40, 50], "test": [60]}
    for part, key in (("test", 2), ("train", 0), ("valid", 1)):
        for shade in shades[part]:
            pixels = np.full((218, 178, 3), 255, np.uint8)
            pixels[35 : 35 + 148, 15 : 15 + 148] = shade  # the central 148 x 148
            name = f"{len(lines) + 1:06}.jpg"
            Image.fromarray(pixels).save(folder / name, quality=100, subsampling=0)
            lines.append(f"{name} {key}")
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return shades


@pytest.mark.parametrize("size", [None, 32])
def test_celeba(tmp_path: Path, size: int | None) -> None:
    shades, side = celeba(tmp_path), size or 64
    found = load("CelebA", tmp_path, image_size=size)
    assert found.describe() == f"celeba: 3 train, 2 valid, 1 test images of 3 x {side} x {side}, binarization none"
    for part in ("train", "valid", "test"):
        x = getattr(found, part).tensors[0].float()
        expected = torch.tensor(shades[part]).float().reshape(-1, 1, 1, 1).expand_as(x)
        # Of the white around them nothing is left but what JPEG smears over its blocks of 8 x 8.
        torch.testing.assert_close(x, expected, rtol=0, atol=12)
        torch.testing.assert_close(x[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6], rtol=0, atol=1)


def test_celeba_has_the_layout_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CelebA

    celeba(tmp_path)
    rows = (tmp_path / "celeba" / "list_eval_partition.txt").read_text().split()[::2]
    texts = {"identity_CelebA": "", "list_bbox_celeba": "6\na\n", "list_landmarks_align_celeba": "6\na\n"}
    for name, head in {**texts, "list_attr_celeba": "6\na\n"}.items():
        (tmp_path / "celeba" / f"{name}.txt").write_text(head + "".join(f"{row} 1\n" for row in rows))
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)  # of the published files' MD5 sums
    for part in ("train", "valid"):
        theirs = CelebA(str(tmp_path), split=part)
        ours = getattr(load("celeba", tmp_path, image_size=1), part)
        crops = [np.asarray(image)[35:183, 15:163].mean() for image, _ in theirs]
        assert ours.tensors[0][:, 0, 0, 0].tolist() == pytest.approx(crops, abs=2)


def test_celeba_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'celeba' is not in .*list_eval_partition\.txt and the unpacked"):
        load("celeba", tmp_path)
    celeba(tmp_path)
    with pytest.raises(ValueError, match=r"channels=1 does not apply to the data set 'celeba': it has image_size"):
        load("celeba", tmp_path, channels=1)
    with pytest.raises(ValueError, match=r"image_size has to be .*; got 0"):
        load("celeba", tmp_path, image_size=0)
    (tmp_path / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"000002\.jpg could not be read as an image"):
        load("celeba", tmp_path)
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt is damaged"):
        load("celeba", tmp_path)
