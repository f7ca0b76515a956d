"""Bad command lines of every command: status 2, and one sentence that tells option, value and what was expected."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae import cli, runs
from pyro_vae.applications import names
from storm.words import (
    CLASSES,
    CONFIGS,
    CONTRADICTIONS,
    DATA,
    EVALUATE,
    FILES,
    NESTED,
    NO_CLASSES,
    OPTIONAL,
    OPTIONS,
    RANGES,
    SMALL,
    STRANGE,
    TEXTS,
    TRAIN,
)

SECONDS = 30
#: What no sentence of a library holds: marks of a parser, of Python and of torch.
RAW = re.compile(
    r"usage:|Traceback|Union subtypes|does not validate|Namespace\(|NestedArg|<class|<function| at 0x|object of type"
    r"|typing\.|NoneType|Parser key|positional argument|unexpected keyword|object has no attribute"
    r"|not subscriptable|not iterable|\bunpack|import path|ForwardRef|Optional\[|Errno|embedded null|^\w+Error",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """A bad line, its kind, and words that the sentence has to have."""

    kind: str
    words: tuple[str, ...]
    said: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: pyro-vae {' '.join(map(_shown, self.words))}"


def _shown(word: str) -> str:
    return ascii(word) if not word or re.search(r"[^\x21-\x7e]", word) else word


# The folder


def prepared(folder: Path) -> None:
    """Data, files and runs, in the working folder."""
    chance = np.random.default_rng(0)
    np.save("x.npy", (chance.random((60, 6)) < 0.5).astype(np.float32))
    np.save("reals.npy", chance.normal(size=(60, 6)).astype(np.float32))
    np.save("counts.npy", chance.integers(0, 300, (60, 6)))
    np.save("images.npy", (chance.random((600, 1, 8, 8)) < 0.5).astype(np.float32))
    np.savez("labeled.npz", x=chance.integers(0, 256, (600, 8, 8), dtype=np.uint8), y=np.arange(600) % 3)
    np.savez("maps.npz", x=chance.integers(0, 2, (60, 4, 6)), y=chance.random((60, 1, 4, 6), dtype=np.float32))
    np.save("nan.npy", np.full((60, 6), np.nan, np.float32))
    np.save("objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
    np.save("words.npy", np.array(["a", "b"]))
    np.savez("strange.npz", a=np.ones((3, 2)), b=np.ones(2))
    for name, text in FILES.items():
        Path(name).write_bytes(text if isinstance(text, bytes) else "\n".join(_dedented(text)).encode())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*TRAIN, *SMALL, "--out", "run"]) == 0
        assert cli.main([*TRAIN, "--out", "trusted", "--model", "mine.Mine"]) == 0
        assert cli.main([*TRAIN, "--out", "images", "--data", "images.npy"]) == 0
        unet = ("--model", "ProbabilisticUNet", "--model.channels", "[2, 3]")
        assert cli.main([*TRAIN, "--out", "maps", "--data", "maps.npz", *unet]) == 0
    Path("empty").mkdir()
    Path("noted").mkdir()
    Path("noted/config.yaml").mkdir()
    for name, (text, _) in CONFIGS.items():
        Path(f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        Path(f"run {name}").mkdir()
        shutil.copy(f"{name}.yaml", f"run {name}/config.yaml")
    for name, path in (("no checkpoint", "checkpoint*"), ("no configuration", "config.yaml")):
        shutil.copytree("run", name)
        for found in Path(name).glob(path):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    for name, kept in (("cut", 100), ("emptied", 0)):
        shutil.copytree("run", name)
        for found in Path(name).rglob("*.safetensors"):
            found.write_bytes(found.read_bytes()[:kept])
    shutil.copytree("run", "no results")
    Path("no results/evaluation.json").write_text("{[")
    shutil.copytree("run", "moved")
    text = Path("moved/config.yaml").read_text()
    Path("moved/config.yaml").write_text(text.replace("data: x.npy", "data: gone.npy"))
    shutil.copytree("run", "changed")
    text = Path("changed/config.yaml").read_text()
    Path("changed/config.yaml").write_text(text.replace("latent_dim: 2", "latent_dim: 3"))


def _dedented(text: str) -> list[str]:
    return [line.removeprefix("        ") for line in text.splitlines()]


# The lines


def _misspelled(word: str, chance: random.Random) -> str:
    """A word with two letters exchanged, one left out, or one twice."""
    places = [i for i, letter in enumerate(word) if letter.isalpha()]
    for _ in range(20):
        at = chance.choice(places)
        made = chance.choice(
            (
                word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[:at] + 2 * word[at] + word[at + 1 :],
            )
        )
        if made != word and made[:1].isalpha() and not made.endswith("."):
            return made
    return word + "q"


def _dashed(option: str) -> str:
    return f"--{option.replace('_', '-')}" if "." not in option else f"--{option}"


def _begun(command: str) -> tuple[str, ...]:
    """A good line of a command, to which something bad is added."""
    if command == "train":
        return (*TRAIN, *SMALL)
    if command == "evaluate":
        return EVALUATE
    if command in ("apply anomaly", "apply labels"):
        return (*command.split(), "--data", "labeled.npz", "--epochs", "1", "--progress", "false")
    runs_of = {
        "plot": ("run",),
        "apply restore": ("images", "--num-images", "2"),
        "apply reduce": ("images",),
        "apply impute": ("images", "--limit", "2"),
        "apply segment": ("maps",),
    }
    return (*command.split(), *runs_of.get(command, ()))


def _command(chance: random.Random) -> str:
    return "train" if chance.random() < 0.4 else chance.choice(list(OPTIONS))


def misspelled_option(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice(OPTIONS[command])
    bad = _misspelled(option, chance)
    while bad in OPTIONS[command] or option == "lr":
        option = chance.choice(OPTIONS[command])
        bad = _misspelled(option, chance)
    value = ("--" + bad.replace("_", "-"), "3") if chance.random() < 0.7 else (f"--{bad}=3",)
    return Line("misspelled option", (*_begun(command), *value), ("--" + bad.replace("_", "-"), _dashed(option)))


def cut_option(chance: random.Random) -> Line:
    """An option without its end, which might be that of another in a later version."""
    command = _command(chance)
    long = [option for option in OPTIONS[command] if len(option) > 5]
    if not long:
        return misspelled_option(chance)
    option = chance.choice(long)
    bad = option[: chance.randint(4, len(option) - 1)].rstrip("_")
    if bad in OPTIONS[command]:
        return misspelled_option(chance)
    return Line("cut option", (*_begun(command), _dashed(bad), "3"), (_dashed(bad), "the nearest are --"))


def of_another_type(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice([option for option in OPTIONS[command] if option not in TEXTS])
    if option == "missing" and command == "apply restore":
        option = "level"
    value = chance.choice(STRANGE)
    if option == "hidden" and value == "[1, 2]" and command == "apply anomaly":
        value = "x"
    return Line("of another type", (*_begun(command), f"{_dashed(option)}={value}"), (_dashed(option), _value(value)))


def out_of_range(chance: random.Random) -> Line:
    command = chance.choice(list(RANGES))
    option = chance.choice(list(RANGES[command]))
    value = chance.choice(RANGES[command][option])
    typed = (f"{_dashed(option)}={value}",)
    named = {"optimizer.lr": "learning rate"}.get(option, option.rpartition(".")[2])
    begun = _begun(command)
    said = "" if option in ("data", "mask", "site") else named if "." in option else _dashed(option)
    shown = {"x.npy": "x", "true": ""}.get(value, _value(value))  # data go by their name, a flag by its option
    said = "lr" if (option, value) == ("optimizer.lr", "nan") else said
    return Line("out of range", (*begun, *typed), (said, shown))


def _value(text: str) -> str:
    """What of a value the sentence has to show; one of control characters or of nothing in quotes."""
    return text if text.strip() and text.isprintable() and len(text) < 60 else ""


def misspelled_class(chance: random.Random) -> Line:
    option = chance.choice(list(CLASSES))
    name = chance.choice(CLASSES[option])
    room, dot, short = name.rpartition(".")
    bad = room + dot + _misspelled(short, chance)
    said = (bad.rpartition(".")[2], short) if option == "model" else (_dashed(option), bad, short)
    return Line("misspelled class", (*TRAIN, f"--{option}", bad), said)


def no_class(chance: random.Random) -> Line:
    option, value = chance.choice(list(CLASSES)), chance.choice(NO_CLASSES)
    if (option == "optimizer" and value == "torch.optim.Optimizer") or (option, value) == ("beta", "3"):
        value = "nowhere.Thing"
    said = (value,) if option == "model" else (_dashed(option), value)
    return Line("no class", (*TRAIN, f"{_dashed(option)}={value}"), said)


def bad_argument(chance: random.Random) -> Line:
    option, kind, argument, value = chance.choice(NESTED)
    begun = (*TRAIN, *(SMALL if "." in option else ()), f"--{option}", kind)
    way = chance.random()
    if way < 0.4:
        return Line("argument of another type", (*begun, f"--{option}.{argument}", value), (argument, value))
    bad = _misspelled(argument, chance)
    if way < 0.8:
        return Line("misspelled argument", (*begun, f"--{option}.{bad}", "3"), (bad, argument))
    written = f"{{class_path: {kind if '.' in kind else 'pyro_vae.models.' + kind}, init_args: {{{bad}: 3}}}}"
    return Line("misspelled argument", (*TRAIN, f"--{option}", written), (bad, argument))


def of_another_model(chance: random.Random) -> Line:
    model, option = chance.choice(
        (
            ("MLPVAE", "model.num_codes"), ("ConvVAE", "model.decoder_hidden"), ("VQVAE", "model.latent_dim"),
            ("MLPVAE", "model.encoder.init_args.hidden"), ("MLPVAE", "model.pair.latent_dim"), ("MLPVAE", "first"),
            ("MLPVAE", "model.likelihood.init_args.rank"), ("LadderVAE", "model.latent_dim"),
            ("FullBayes", "model.pair.num_codes"),
        )
    )  # fmt: skip
    last = option.rpartition(".")[2]
    more = ("--model.pair", "MLPVAE") if model == "FullBayes" else ()
    return Line("option of another model", (*TRAIN, "--model", model, *more, f"--{option}", "3"), (last,))


def missing(chance: random.Random) -> Line:
    command = _command(chance)
    option = chance.choice([option for option in OPTIONS[command] if option != "trust"])
    way = chance.random()
    if way < 0.6:
        return Line("without a value", (*_begun(command), _dashed(option)), (_dashed(option),))
    command = chance.choice(("evaluate", "plot", "apply restore", "apply reduce", "apply segment"))
    if way < 0.8:
        return Line("without a run", tuple(command.split()), ("run",))
    word = chance.choice(("words", "ü", "3", "-3", "-x", ""))
    return Line("one word more", (*_begun(command), word), (_value(word),))


def null(chance: random.Random) -> Line:
    command = _command(chance)
    taken = [option for option in OPTIONS[command] if option not in OPTIONAL and option not in TEXTS]
    if not taken:
        return missing(chance)
    option = chance.choice(taken)
    return Line("null", (*_begun(command), f"{_dashed(option)}=null"), (_dashed(option), "null"))


def bad_config(chance: random.Random) -> Line:
    name = chance.choice(list(CONFIGS))
    word = CONFIGS[name][1]
    way = chance.random()
    if way < 0.7:
        return Line("configuration", (*TRAIN, "--config", f"{name}.yaml"), (f"{name}.yaml", word))
    word = "" if name in ("null", "out of range") else word  # numbers of the training, which is done
    return Line("run with a bad configuration", (chance.choice(("evaluate", "plot")), f"run {name}"), (word,))


def no_config(chance: random.Random) -> Line:
    path = chance.choice(("nowhere.yaml", "empty", "x.npy", "", "mine.py", "ü.yaml", "/dev/null/x", "a" * 300))
    return Line("no configuration", (*TRAIN, "--config", path), (_value(path),))


def no_run(chance: random.Random) -> Line:
    command = chance.choice(("evaluate", "plot", "apply restore", "apply reduce", "apply segment"))
    run = chance.choice(
        ("nowhere", "empty", "noted", "x.npy", "no checkpoint", "no configuration", "cut", "emptied", "moved",
         "changed", "ru", "", "ü", "/", "a" * 300, "no results")
    )  # fmt: skip
    if run in ("no results", "changed"):
        command = "evaluate"
    return Line("no run", (*command.split(), run), ("another pair" if run == "changed" else _value(run),))


def contradiction(chance: random.Random) -> Line:
    *words, _, said = chance.choice(CONTRADICTIONS)
    return Line("contradiction", tuple(words), (said,))


def no_data(chance: random.Random) -> Line:
    data = chance.choice(list(DATA))
    return Line("no data", (*TRAIN, "--data", data, "--download", "false"), (DATA[data],))


def no_command(chance: random.Random) -> Line:
    command = chance.choice([*OPTIONS])
    bad = _misspelled(command.split()[-1], chance)
    if command.startswith("apply"):
        return Line("no application", ("apply", bad, "run"), (bad, command.split()[-1]))
    return Line("no command", (bad, "run"), (bad, command))


KINDS: tuple[Callable[[random.Random], Line], ...] = (
    misspelled_option, cut_option, of_another_type, of_another_type, out_of_range, out_of_range, misspelled_class,
    no_class, bad_argument, bad_argument, of_another_model, missing, null, bad_config, no_config, no_run, contradiction,
    contradiction, no_data, no_command,
)  # fmt: skip
assert set(names()) == {name.removeprefix("apply ") for name in OPTIONS if name.startswith("apply ")}


def generated(count: int, seed: int) -> Iterator[Line]:
    """``count`` lines, the kinds in turn."""
    chance = random.Random(seed)
    for index in range(count):
        yield KINDS[index % len(KINDS)](chance)


# The judge


class Outcome(NamedTuple):
    wrong: str
    text: str


class _TooLong(BaseException):
    pass


def outcome(line: Line, seconds: float = SECONDS) -> Outcome:
    """What is wrong with the answer to a line (nothing, if it is good), and the answer."""

    def stop(*_: Any) -> None:
        raise _TooLong

    out, err = io.StringIO(), io.StringIO()
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    status: Any = None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(list(line.words))
    except _TooLong:
        return Outcome(f"over {seconds} s", err.getvalue())
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        return Outcome("raised", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return Outcome(judged(line, status, err.getvalue()), err.getvalue())


def judged(line: Line, status: Any, text: str) -> str:
    """What is wrong with a status and what was said."""
    said = [words for words in text.splitlines() if words.startswith("pyro-vae: error: ")]
    other = [w for w in text.splitlines() if w.strip() and not w.startswith(("pyro-vae: error: ", "pyro-vae: warning"))]
    if status not in (1, 2):
        return f"status {status}"
    if len(said) != 1 or other:
        return f"{len(said)} sentences and {len(other)} other lines"
    sentence = said[0].removeprefix("pyro-vae: error: ")
    if found := RAW.search(sentence):
        return f"raw: {found[0]}"
    if len(sentence) > 600 or len(sentence.split()) < 4 or not sentence.rstrip().endswith((".", "?", ")")):
        return "no sentence"
    plain = sentence.replace("_", "-")
    lacking = [word for word in line.said if word and word.replace("_", "-") not in plain]
    return f"does not say {', '.join(map(_shown, lacking))}" if lacking else ""


def storm(count: int, seed: int, seconds: float = SECONDS) -> list[tuple[Line, Outcome]]:
    """The answers to generated lines, in a folder of their own."""
    before, path = os.getcwd(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        drawn, cli.training.draw = cli.training.draw, lambda *where: None  # figures take longer than all else
        try:
            prepared(Path(folder))
            os.mkfifo("pipe.npy")
            cli.training.draw = drawn
            return [(line, outcome(line, seconds)) for line in generated(count, seed)]
        finally:
            cli.training.draw = drawn
            os.chdir(before)
            sys.path[:] = path
            runs.options._load.cache_clear()
            runs.options._prepared.cache_clear()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=300, help="lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", action="store_true", help="show good ones as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    found = storm(options.times, options.seed)
    wrong = [(line, answer) for line, answer in found if answer.wrong]
    for line, answer in found if options.answers else wrong:
        print(f"{line}\n    {answer.wrong or 'good'}: {_shown(answer.text.strip()[-700:])}")
    counts, total = Counter(line.kind for line, _ in wrong), Counter(line.kind for line, _ in found)
    for kind, count in sorted(total.items()):
        print(f"{counts[kind]:4} of {count:4}  {kind}")
    print(
        f"{len(wrong):,} of {len(found):,} lines ended in no sentence; seed {options.seed}; "
        f"{time.monotonic() - started:.0f} s"
    )
    return bool(wrong)
