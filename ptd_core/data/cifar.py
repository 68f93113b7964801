"""CIFAR-10 and CIFAR-100, from torchvision's folder or from the parquet shards of the Hugging Face hub.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
50,000 training and 10,000 test images, 32 x 32 RGB.
"""

import http.client
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.datasets.utils import check_integrity, extract_archive

from ptd_core.data.cifar_parquet import SIZE, SPLITS, read_class_names, read_split
from ptd_core.data.dataset import Dataset, Split, balanced_subset
from ptd_core.data.parquet_shards import find_shards
from ptd_core.errors import DataError

ROWS = {"train": 50_000, "test": 10_000}


@dataclass(frozen=True)
class CifarKind:
    """What differs between the two: torchvision's class, the hub's names, pixel statistics in [0, 1]."""

    source: type[torchvision.datasets.CIFAR10]
    classes: int
    label_column: str
    hub_folder: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


KINDS = {
    "cifar100": CifarKind(
        source=torchvision.datasets.CIFAR100,
        classes=100,
        label_column="fine_label",
        hub_folder="cifar100",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
    "cifar10": CifarKind(
        source=torchvision.datasets.CIFAR10,
        classes=10,
        label_column="label",
        hub_folder="plain_text",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
}


def load_cifar(
    name: str, data_dir: Path, *, image_size: int = 32, subset: int = 0, test_subset: int = 0, download: bool = True
) -> Dataset:
    """CIFAR-100 or CIFAR-10 from `data_dir`, in whichever layout is there; downloaded if none is and `download`.

    Layouts: hub shards (train-XXXXX-of-YYYYY.parquet or train/XXXX.parquet, test alike) in data_dir, data_dir/data or
    data_dir/HUB_FOLDER; or torchvision's folder (cifar-100-python, cifar-10-batches-py) in data_dir, with its
    checksums, or its archive (cifar-100-python.tar.gz, cifar-10-python.tar.gz), which is then unpacked there.
    Images are uint8 (n, 3, 32, 32). subset, test_subset: 0 for all, else that many, class-balanced.
    Raises DataError if the data is absent, incomplete or damaged, or if image_size is not 32.
    """
    kind = KINDS[name]
    if image_size != SIZE:
        raise DataError(f"The images of {name} are {SIZE} x {SIZE}, but image_size is {image_size}. Set it to {SIZE}.")

    shards = find_shards([data_dir, data_dir / "data", data_dir / kind.hub_folder], SPLITS)
    if shards is not None:
        train, test = (
            read_split(shards, split, kind.label_column, kind.classes, ROWS[split], size)
            for split, size in (("train", subset), ("test", test_subset))
        )
        classes = read_class_names(shards, kind.label_column, kind.classes)
        return Dataset(name, train, test, classes, kind.mean, kind.std)

    if not (data_dir / kind.source.base_folder).is_dir():
        _refuse_inner_folder(name, data_dir)
        if (data_dir / kind.source.filename).is_file():
            _unpack(name, data_dir)
        elif not download:
            raise DataError(
                f"{name} is not in {data_dir}: neither {kind.source.base_folder}/ (torchvision's layout) nor "
                f"train-*.parquet (the hub's) is there, and download is false. {_ways_to_get(name)}"
            )
        else:
            _download(name, data_dir)
    return _from_torchvision_folder(name, data_dir, subset, test_subset)


def _ways_to_get(name: str) -> str:
    return (
        f"Two ways to get it: set download to true where there is a network, and torchvision fetches it into "
        f"data_dir; or put the parquet shards of uoft-cs/{name} from the Hugging Face hub into a folder and pass "
        f"that folder as data_dir."
    )


def _refuse_inner_folder(name: str, data_dir: Path) -> None:
    source = KINDS[name].source
    if any((data_dir / file).is_file() for file, _ in [*source.train_list, *source.test_list]):
        raise DataError(
            f"{data_dir} is the folder {source.base_folder} of {name} itself; pass the folder that holds it as data_dir"
            f", {data_dir.absolute().parent}, and keep its name {source.base_folder}."
        )


def _download(name: str, data_dir: Path) -> None:
    """torchvision's folder, complete and checked, or none at all: it is moved into place as the last step."""
    absent = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _moved_into_place(name, data_dir) as scratch:
            KINDS[name].source(scratch, download=True)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
        raise DataError(f"{name} could not be downloaded into {data_dir}: {error}. {_ways_to_get(name)}") from error
    finally:
        with suppress(OSError):  # what holds something stays
            for folder in absent:
                folder.rmdir()


def _unpack(name: str, data_dir: Path) -> None:
    """torchvision's folder from its archive in data_dir, which is checked before it is opened."""
    source = KINDS[name].source
    archive = data_dir / source.filename
    if not check_integrity(archive, source.tgz_md5):
        raise DataError(
            f"{archive} is damaged: its MD5 is not {source.tgz_md5}. "
            f"Delete it and get {name} again. {_ways_to_get(name)}"
        )
    try:
        with _moved_into_place(name, data_dir) as scratch:
            extract_archive(str(archive), scratch)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{archive} could not be unpacked in {data_dir}: {error}.") from error


@contextmanager
def _moved_into_place(name: str, data_dir: Path) -> Iterator[str]:
    """A folder to put torchvision's folder into, which is then moved into data_dir, whole or not at all."""
    folder = KINDS[name].source.base_folder
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as scratch:
        yield scratch
        # Another process may have been quicker; what it put there is checked like any other folder.
        if not (data_dir / folder).exists():
            os.replace(Path(scratch) / folder, data_dir / folder)


def _from_torchvision_folder(name: str, data_dir: Path, subset: int, test_subset: int) -> Dataset:
    kind = KINDS[name]
    folder = data_dir / kind.source.base_folder
    # The batches are pickles, which can run code: only files with torchvision's checksums are ever opened.
    # torchvision checks them too, but does not say which file is wrong.
    meta = kind.source.meta
    for file_name, md5 in [*kind.source.train_list, *kind.source.test_list, (meta["filename"], meta["md5"])]:
        path = folder / file_name
        if not path.is_file():
            raise DataError(f"{path} is missing. Delete {folder} and get {name} again. {_ways_to_get(name)}")
        if not check_integrity(path, md5):
            raise DataError(
                f"{path} is damaged: its MD5 is not {md5}. Delete {folder} and get {name} again. {_ways_to_get(name)}"
            )
    splits = []
    for split, size in (("train", subset), ("test", test_subset)):
        source = kind.source(data_dir, train=split == "train", download=False)
        labels = np.asarray(source.targets, dtype=np.int64)
        chosen = balanced_subset(labels, size, kind.classes, f"{split} images of {name}", tuple(source.classes))
        images = np.ascontiguousarray(source.data[chosen].transpose(0, 3, 1, 2))
        splits.append(Split(torch.from_numpy(images), torch.from_numpy(labels[chosen])))
    return Dataset(name, splits[0], splits[1], tuple(source.classes), kind.mean, kind.std)
