"""The README's Python runs as it stands, and its rooms are there."""

import re
from pathlib import Path

import pyro_vae

README = (Path(pyro_vae.__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_first_python_example_runs(capsys):
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import torch" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert "test NLL" in capsys.readouterr().out


def test_the_rooms_that_it_names_are_there():
    here = Path(pyro_vae.__file__).parent
    table = README.split("## The rooms")[1].split("##")[0]
    for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        for name in re.findall(r"`(?:pyro_vae\.)?(\w+)`", row):
            assert (here / name).is_dir() or (here / f"{name}.py").is_file(), name
