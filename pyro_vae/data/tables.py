"""Data of one's own: tables, of text and of Parquet; :mod:`~pyro_vae.data.saved` are those of Hugging Face."""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._checks import shown, warn
from pyro_vae.data.arrays import check_size, tensor
from pyro_vae.data.cut import PARTS, Arrays, part_names
from pyro_vae.data.files import Refused
from pyro_vae.data.rows import Rows, kept_in_memory, package

Table = tuple[Arrays, dict[str, int]]  # and where in x columns are, by name and number
CLASSES = (
    "labels= takes the name of a column of labels, also of words, and load(...).with_labels() gives them to programs."
)
_EMPTY = ("", "NA")  # cells of what is missing, the latter as R writes them
_LABELS = -1  # the place of the column of labels, which is none of x


def text_table(path: Path, labels: str | None, in_memory: bool | None) -> Table:
    """A .csv or .tsv file: its numbers ``[N, D]``, labels, and where in x columns are, by name and number in the file.

    Cells of a .csv file are between commas, or between semicolons where its first line has no comma. A cell that is
    empty, or NA, is NaN. Labels that are words are numbered in sorted order. Lines before the table that
    begin with # are comments, the last of which names the columns where no other line does; inside of it # is a letter.
    """
    try:
        delimiter = _delimiter(path)
        names, named, skipped = _head(path, delimiter, labels)
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} is no table of numbers ({error}). Save it as UTF-8.") from error
    label = place_of(labels, names)
    taken = [number for number in range(len(names)) if number != label]
    if not taken and names:
        raise ValueError(f"{path} has no column but its labels; leave labels= out, or save x beside them.")

    where: dict[str, Any] = {"delimiter": delimiter, "ndmin": 2, "quotechar": '"', "comments": None}
    whole: dict[str, Any] = {**where, "skiprows": skipped, "encoding": "utf-8-sig"}
    columns = None if label is None else taken
    try:
        x: Any
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input.*contained no data")  # of empty lines, and of what is said below
            if kept_in_memory(path.stat().st_size, in_memory):
                check_size(path.stat().st_size, str(path))
                x = torch.from_numpy(_numbers_of(path, usecols=columns, **whole))
            else:
                x = Rows.of_blocks(_blocks(path, skipped, usecols=columns, **where))
            if not x.numel():
                below = " below its names" if named else ""
                raise Refused(f"{path} has no row of numbers{below}. Save the table again.")
            if doubt := _doubt(names, named, x[:1]):
                warn(f"{path} {doubt}, and is taken as data. Write it by to_csv(index=False), of columns with names.")
            words = None if label is None else np.loadtxt(path, usecols=[label], dtype=str, **whole)
        if words is not None and (lacking := np.flatnonzero(np.char.strip(words[:, 0]) == "")).size:
            raise Refused(_no_label(path, int(lacking[0]), names[label or 0]))
        y = None if words is None else _classes(words[:, 0])
    except Refused:
        raise
    except (ValueError, IndexError, OverflowError, csv.Error) as error:
        wrong = _wrong_cell(path, delimiter, skipped, named, names, label) or error
        raise ValueError(
            f"{path} is no table of numbers ({wrong}). Leave out columns of text, or number their values; {CLASSES}"
        ) from error
    return {"train": (x, y)}, places_of_x(names, label)


def _delimiter(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip("\r\n") and not line.startswith("#")), "")
    return ";" if ";" in first and "," not in first else ","


def _head(path: Path, delimiter: str, labels: str | None) -> tuple[list[str], bool, int]:
    """The names of the columns, whether the file gives them, and the number of lines before the numbers.

    Lines that begin with # are comments. The last one names the columns, as numpy.savetxt writes it, where numbers
    follow and it has as many cells, not all of them numbers. Where all lines begin with #, so do their labels.
    """

    first, last, before, marked = "", "", 0, 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line in file:
            if line.startswith("#"):
                first, last, marked = first or line, line, marked if first else before
            elif line.strip("\r\n"):
                break
            before += 1
        else:
            line, last, before = first, "", marked
        rows = csv.reader(itertools.chain([line], file), delimiter=delimiter)
        row = next(rows)
    names = _names(last, delimiter)
    if len(names) != len(row) or all(map(_is_number, names)):
        names = []
    own = {labels, *(str(number) for number, name in enumerate(names) if name == labels)}  # the column of labels
    if all(_is_number(word) for number, word in enumerate(row) if str(number) not in own):
        return names or [str(number) for number in range(len(row))], bool(names), before
    names = _names(line, delimiter) if line is first else [name.strip() for name in row]
    return names, True, before + rows.line_num


def _doubt(names: Sequence[str], named: bool, first: Any) -> str:
    """What of a table may be what pandas writes beside the data: its index, or the numbers of its columns."""
    if named and not names[0]:
        return "has a first column without a name, which may be the index that pandas writes"
    counts = not named and len(names) > 2 and first.tolist() == [list(range(first.shape[1]))]
    return "has a first line that may be the numbers which pandas gives columns" if counts else ""


def _names(line: str, delimiter: str) -> list[str]:
    """The cells of a line that may begin with #."""
    return [name.strip() for name in next(csv.reader([line.removeprefix("#")], delimiter=delimiter))]


def filled_text(path: Path, values: Sequence[Sequence[float]], labels: str | None, covariates: str | None) -> str:
    """A .csv or .tsv file with a number in each empty cell of x, ``values: [N, D]`` being all of x; else as it is.

    Args:
        path: of the file.
        values: the rows of x in the file's order.
        labels, covariates: names of columns that are no part of x, as of :func:`pyro_vae.data.load`.
    """
    delimiter = _delimiter(path)
    names, _, skipped = _head(path, delimiter, labels)
    there = places(dict(enumerate(names)))
    others = {column(word.strip(), there) for word in (covariates or "").split(",") if word.strip()}
    others |= set() if labels is None else {column(labels, there)}
    own = [number for number in range(len(names)) if number not in others]
    written = io.StringIO()
    rows = csv.writer(written, delimiter=delimiter, lineterminator="\n")
    with path.open(encoding="utf-8-sig", newline="") as file:
        written.writelines(itertools.islice(file, skipped))
        for cells, numbers in zip(filter(None, csv.reader(file, delimiter=delimiter)), values, strict=True):
            for number, value in zip(own, numbers, strict=True):
                if cells[number].strip() in _EMPTY or cells[number].strip().lower() == "nan":
                    cells[number] = f"{value:.7g}"
            rows.writerow(cells)
    return written.getvalue()


def _numbers_of(source: Any, **options: Any) -> np.ndarray:
    """The numbers of a file of text, or of some lines."""
    try:
        return np.loadtxt(source, **options)
    except ValueError:
        return np.loadtxt(source, converters=_number, **options)  # slower, and knows empty cells


def _blocks(path: Path, skipped: int, **options: Any) -> Iterator[np.ndarray]:
    """The numbers of a file of text, so many lines at a time."""
    with path.open(encoding="utf-8-sig") as file:
        lines = itertools.islice(file, skipped, None)
        while some := list(itertools.islice(lines, AT_ONCE)):
            yield _numbers_of(some, **options)


def parquet_table(path: Path, labels: str | None, in_memory: bool | None) -> Table:
    """A Parquet file, or a folder of such in the order of their names, as :func:`text_table`.

    One column of lists of one length is x as it is, ``[N, *event]``. Files of a folder whose names begin with those of
    sets, train-0.parquet and test-0.parquet, are these.
    """
    parquet = package("pyarrow.parquet", f"{path} is a Parquet table")
    try:
        given = {"train": [path]} if path.is_file() else _by_part(path)
        files = {part: [parquet.ParquetFile(one) for one in some] for part, some in given.items()}
    except Refused:
        raise
    except (OSError, ValueError) as error:  # of which those of pyarrow are
        raise ValueError(f"{path} could not be read as a Parquet table ({error}). Write it again.") from error

    names = _columns(files["train"][0].schema_arrow, labels)
    label, parts = place_of(labels, names), {}
    for part, some in files.items():
        for file in some:
            check_columns(path, names, _columns(file.schema_arrow, labels))

        def read(columns: list[str], some: list[Any] = some) -> Iterator[dict[str, np.ndarray]]:
            for file in some:
                for batch in file.iter_batches(AT_ONCE, columns=columns):
                    yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}

        count = sum(file.metadata.num_rows for file in some)
        parts[part] = of_columns(path, names, read, label, count, in_memory)
    return numbered(parts), places_of_x(names, label)


def _columns(schema: Any, labels: str | None) -> list[str]:
    """The names of the columns of a Parquet file, without those that hold the index of a table of pandas."""
    try:
        told = schema.pandas_metadata
    except ValueError:  # of a damaged file
        told = None
    index = told.get("index_columns") if isinstance(told, dict) else None
    names = [name for name in schema.names if not isinstance(index, list) or name not in index or name == labels]
    return names or list(schema.names)


def _by_part(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of a folder by the sets that their names begin with; else all are one set."""
    known = [name for same in PARTS.values() for name in same]
    files = parquet_files(folder)
    words = [next((name for name in known if re.match(rf"{name}(?![a-z])", file.name.lower())), "") for file in files]
    if not any(words):
        return {"train": files}
    parts = part_names(filter(None, words), folder)
    if "" in words:
        raise Refused(
            f"{folder} has files of a set, and {files[words.index('')].name}, of which that is not known. Begin the "
            "names of all with train, valid or test, or of none."
        )
    if "train" not in parts:
        raise Refused(
            f"{folder} has files of {sorted(set(words))}; a set of the name train was expected. Begin the names of "
            "one set with train, or give each file by itself."
        )
    return {
        part: [file for file, word in zip(files, words, strict=True) if word == name] for part, name in parts.items()
    }


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, in the order of their names."""
    return sorted(file for file in folder.glob("*.parquet") if file.is_file())


def of_columns(
    path: Path,
    names: list[str],
    read: Callable[[list[str]], Iterator[dict[str, np.ndarray]]],
    label: int | None,
    count: int,
    in_memory: bool | None,
) -> tuple[Any, np.ndarray | None]:
    """x and labels of columns, of which ``read`` gives those that are named, ``[B, ...]`` each, some rows at a time.

    Of the labels, as they stand there, it is the column of the number ``label``; ``count`` is the number of rows.
    """
    taken = {number: name for number, name in enumerate(names) if number != label}
    if not taken:
        raise ValueError(f"{path} has no column but its labels.")

    def numbers() -> Iterator[np.ndarray]:
        for block in read(list(taken.values())):
            columns = [_as_numbers(block[name], name, path) for name in taken.values()]
            if len(columns) > 1 and any(one.ndim > 1 for one in columns):
                wide = [name for name, one in zip(taken.values(), columns, strict=True) if one.ndim > 1]
                raise ValueError(
                    f"{path} has a column of arrays, {wide[0]!r}, beside {len(columns) - 1} others. Keep that alone, "
                    "or columns of numbers; labels= takes the name of a column of labels."
                )
            yield np.column_stack(columns) if columns[0].ndim == 1 else columns[0]

    blocks = numbers()
    first = next(blocks, None)
    if first is None or not first.size:
        raise ValueError(f"{path} has no row of numbers. Save the table again.")
    size = count * first.nbytes // len(first)  # in memory; a file may be packed
    rows = itertools.chain([first], blocks)
    if kept_in_memory(size, in_memory):
        check_size(size, str(path))
        x: Any = tensor(np.concatenate(list(rows)), str(path))
    else:
        x = Rows.of_blocks(rows)
    if label is None:
        return x, None
    y = np.concatenate([block[names[label]] for block in read([names[label]])])
    lacking = [row for row, word in enumerate(y.tolist()) if word is None or word != word]
    if lacking:
        raise ValueError(_no_label(path, lacking[0], names[label]))
    return x, y


def _no_label(path: Path, row: int, name: str) -> str:
    return f"{path} has no label in row {row}, column {name!r}. Fill it, or drop the row."


def place_of(labels: str | None, names: Sequence[str]) -> int | None:
    return None if labels is None else column(labels, places(dict(enumerate(names))))


def places_of_x(names: list[str], label: int | None) -> dict[str, int]:
    found = places({number: name for number, name in enumerate(names) if number != label})
    return found if label is None else {str(label): _LABELS, names[label]: _LABELS, **found}


def names_of_x(columns: Mapping[str, int] | None, *others: str | None) -> tuple[str, ...] | None:
    """The names of the columns of x, without ``others`` that are further arguments; ``None`` where they have none."""
    found = {place: name for name, place in (columns or {}).items() if place != _LABELS}  # a name is behind its number
    if columns is None or all(name.isdecimal() for name in found.values()):
        return None
    left_out = {column(word.strip(), dict(columns)) for some in others if some for word in some.split(",")}
    return tuple(name for place, name in sorted(found.items()) if place not in left_out)


def check_columns(path: Path, names: list[str], others: list[str]) -> None:
    """Refuses another part of a table that has other columns."""
    if different := set(names) ^ set(others):
        raise ValueError(
            f"{path} has parts of different columns: {sorted(different)[0]!r} is not in all of them. Give each the "
            "same columns."
        )


def numbered(parts: Arrays) -> Arrays:
    """The parts with labels as whole numbers, words by one numbering for all."""
    words = {part: y for part, (_, y) in parts.items() if y is not None}
    if not words:
        return parts
    ends = np.cumsum([len(y) for y in words.values()])
    y = dict(zip(words, np.split(_classes(np.concatenate(list(words.values()))), ends[:-1]), strict=True))
    return {part: (x, y.get(part)) for part, (x, _) in parts.items()}


def _as_numbers(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """A column, ``[B]`` or of lists of one length, as numbers."""
    if values.dtype == object and len(values) and not isinstance(values[0], str):
        try:
            values = _stacked(values)
        except ValueError as error:
            raise ValueError(f"column {name!r} of {path} holds lists of several lengths. Pad them.") from error
    if values.dtype.kind not in "biuf":
        what = "text" if values.dtype == object else values.dtype.name
        raise ValueError(
            f"column {name!r} of {path} holds {what}, and numbers were expected. Leave it out, or number "
            f"its values; {CLASSES}"
        )
    return values


def _stacked(values: np.ndarray) -> np.ndarray:
    """Lists of lists of one length as one array."""
    if values.dtype != object or not len(values) or isinstance(values[0], str):
        return values
    return np.stack([np.float64("nan") if value is None else _stacked(np.asarray(value)) for value in values])


def places(names: Mapping[int, str]) -> dict[str, int]:
    """Where in x columns are, by their numbers in the file and by their names."""
    numbers = {str(number): place for place, number in enumerate(names)}
    return numbers | {name: place for place, name in enumerate(names.values())}


def column(word: str, columns: dict[str, int]) -> int:
    """The place of a column.

    Raises:
        ValueError: if there is none of that name or number; the nearest are named.
    """
    if word not in columns:
        names = [name for name in columns if not name.isdecimal()] or list(columns)
        near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
        there = f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(names[:10])}"
        raise ValueError(f"the table has no column {word!r}; {there}. Columns have numbers from 0, too.")
    if columns[word] == _LABELS:
        raise ValueError(
            f"the column {word!r} is that of the labels, which programs are given by load(...).with_labels(), as whole "
            "numbers. Leave it out of the other columns."
        )
    return columns[word]


#: Rows of a table that are read at a time.
AT_ONCE = 65_536


def _number(cell: str) -> float:
    return float("nan" if cell.strip() in _EMPTY else cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _classes(words: np.ndarray) -> np.ndarray:
    """Labels as whole numbers: those that they are, or the places of numbers or words in sorted order."""
    if words.dtype.kind not in "biuf":
        words = np.char.strip(words.astype(str))
        for kind in (np.int64, np.float64):
            try:
                words = words.astype(kind)
            except ValueError:
                continue
            except OverflowError:  # of more digits than either of them holds
                pass
            break
    if words.dtype.kind != "U":
        with np.errstate(invalid="ignore"):
            numbers = words.astype(np.int64)
        if words.dtype.kind != "f" or (numbers == words).all():  # 1.5 is no 1
            return numbers
    return np.unique(words, return_inverse=True)[1]


def _wrong_cell(path: Path, delimiter: str, skipped: int, named: bool, names: list[str], label: int | None) -> str:
    """Where the first cell is that is no number."""
    with path.open(encoding="utf-8-sig", newline="") as file, contextlib.suppress(ValueError, csv.Error):
        rows = csv.reader(itertools.islice(file, skipped, None), delimiter=delimiter)
        for row in filter(None, rows):
            line = skipped + rows.line_num
            if len(row) != len(names):
                return f"line {line} has {len(row)} cells, and line {skipped + (not named)} has {len(names)}"
            for number, cell in enumerate(row):
                if number != label and not _is_number(cell):
                    return f"{shown(cell)} in line {line}, column {names[number]!r}"
    return ""
