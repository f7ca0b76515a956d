"""The Frey faces as a data set of torchvision's kind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib import request

import numpy as np
from PIL import Image
from scipy.io import loadmat
from torchvision.datasets import VisionDataset

from pyro_vae._checks import checked
from pyro_vae._files import appending, write_whole


class FreyFace(VisionDataset):
    """The 1,965 frames of Brendan Frey's face that S. Roweis published, in the manner of ``torchvision.datasets``.

    Args:
        root: the file is ``root/FreyFace/frey_rawface.mat``; its SHA-256 sum is checked before it is read.
        transform: of the PIL image (gray, 20 wide and 28 high) that ``dataset[i]`` gives. There are no targets.
        download: fetch the file where it is missing.

    Raises:
        FileNotFoundError: if it is missing, or could not be downloaded.
        ValueError: if it is another file.

    Attributes:
        data: all frames, uint8 [1965, 28, 20].
    """

    url = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
    filename = "frey_rawface.mat"
    sha256 = "ce2dcba3d6ffb0d19fc322b1d8501005c841da8764ff9d6589da7f8de0a0ea86"

    @checked(but=("transform",))
    def __init__(
        self, root: str | os.PathLike[str], transform: Callable[[Any], Any] | None = None, download: bool = False
    ) -> None:
        super().__init__(str(root), transform=transform)
        path = Path(self.root) / "FreyFace" / self.filename
        reason = self._download(path) if download and not path.is_file() else None
        if not path.is_file():
            why = f" The download failed: {reason}." if download else " Or pass download=True."
            raise FileNotFoundError(
                f"The Frey faces are not in {path.parent}. Put {self.filename} there ({self.url}), or name the"
                f" folder that holds FreyFace/ by root= or the environment variable PYRO_VAE_DATA.{why}"
            ) from reason
        self._check(path.read_bytes(), path)
        # a column is an image, row by row
        self.data = np.ascontiguousarray(loadmat(str(path), variable_names=["ff"])["ff"].T).reshape(-1, 28, 20)

    def _check(self, content: bytes, where: Path | str) -> None:
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise ValueError(
                f"{where} is not the published file of Frey faces: its SHA-256 sum is {found}, expected was"
                f" {self.sha256}. Replace it."
            )

    def _download(self, path: Path) -> Exception | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with appending(path):
                if path.is_file():  # another process has fetched it meanwhile
                    return None
                with request.urlopen(self.url, timeout=60) as response:
                    content = response.read(2**26)
                self._check(content, self.url)
                write_whole(path, lambda temporary: temporary.write_bytes(content))
        except (OSError, HTTPException, ValueError) as error:
            return error
        return None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image)
