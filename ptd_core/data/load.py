"""One door to every dataset: `load(name, data_dir)`."""

from pathlib import Path
from typing import Literal

from ptd_core.data.cifar import load_cifar
from ptd_core.data.dataset import Dataset, Split
from ptd_core.data.image_folder import list_image_folder
from ptd_core.data.listing import resident
from ptd_core.data.mapped import mapped
from ptd_core.data.parquet import list_parquet
from ptd_core.data.shapes import load_shapes
from ptd_core.errors import DataError
from ptd_core.paths import readable, resolve_cache_dir, resolve_data_dir

__all__ = ["Dataset", "Split", "load", "resolve_data_dir"]


def load(
    name: Literal["shapes", "cifar100", "cifar10", "folder", "parquet"],
    data_dir: str | Path,
    *,
    image_size: int = 32,
    subset: int = 0,
    test_subset: int = 0,
    download: bool = True,
    label_column: str = "",
    images: Literal["resident", "mapped"] = "resident",
    cache_dir: str | Path = "",
) -> Dataset:
    """A dataset by name, as uint8 images (n, 3, image_size, image_size) and int64 labels (n,).

    data_dir: where the data is or is downloaded to (see `resolve_data_dir`); not used by `shapes`.
    image_size: pixels a side. subset, test_subset: number of training and of test images, class-balanced and the
    same whatever the training seed; 0 means all. download: may the network be used if CIFAR is absent?
    label_column: of `parquet`, see `list_parquet`. images: in memory, or of `folder` and `parquet` mapped from a file
    in cache_dir (see `mapped` and `resolve_cache_dir`): the same images, bit for bit.
    Raises DataError if the data is absent, damaged, or not what the parameters say; never replaces it by other data.
    """
    sizes = {"image_size": image_size, "subset": subset, "test_subset": test_subset}
    if name == "shapes":
        return load_shapes(**sizes)
    folder = resolve_data_dir(data_dir)
    try:
        if name in ("cifar100", "cifar10"):
            return load_cifar(name, folder, download=download, **sizes)
        if name in ("folder", "parquet"):
            listing = (
                list_image_folder(folder, **sizes)
                if name == "folder"
                else list_parquet(folder, label_column=label_column, **sizes)
            )
            return resident(listing) if images == "resident" else mapped(listing, resolve_cache_dir(cache_dir))
    except OSError as error:  # a folder that may not be listed, a file that may not be opened
        raise DataError(f"{readable(error.filename or folder)} cannot be read ({error.strerror or error}).") from error
    raise DataError(f"There is no dataset named {name!r}; the names are shapes, cifar100, cifar10, folder and parquet.")
