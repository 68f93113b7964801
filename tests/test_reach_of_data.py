"""Settings of the data and its augmentation: change one alone, and look for its own consequence."""

import numpy as np
import pytest
import torch
from reach import collector

from ptd_core.data import load as load_module
from ptd_core.data import randaugment
from ptd_core.errors import DataError
from ptd_core.machine.randomness import generator

CHECKS, reaches = collector()


# data


@reaches("dataset", "data_dir")
def dataset_and_its_folder(bench):
    folder = bench.images_on_disk()
    found = bench.loaded(dataset="folder", data_dir=folder, subset=0, test_subset=0)
    assert (found.name, found.classes, len(found.train), len(found.test)) == ("folder", ("a", "b"), 40, 10)
    with pytest.raises(DataError, match="elsewhere"):
        bench.loaded(dataset="folder", data_dir=folder + "/elsewhere")
    assert bench.loaded(data_dir=folder).name == "shapes"
    asked = []
    bench.monkeypatch.setattr(load_module, "load_cifar", lambda name, folder, **rest: asked.append((name, str(folder))))
    for name in ("cifar10", "cifar100"):
        bench.loaded(dataset=name, image_size=32, data_dir=folder)
    assert asked == [("cifar10", folder), ("cifar100", folder)]


@reaches("download")
def download(bench):
    asked = []
    bench.monkeypatch.setattr(load_module, "load_cifar", lambda *_, download, **rest: asked.append(download))
    for download in (True, False):
        bench.loaded(dataset="cifar10", image_size=32, download=download)
    assert asked == [True, False]


@reaches("images", "cache_dir")
def images_in_memory_or_mapped(bench):
    data = {"dataset": "folder", "data_dir": bench.images_on_disk(), "subset": 0, "test_subset": 0}
    cache = bench.folder / "decoded"
    assert not bench.loaded(**data, cache_dir=str(cache)).train.mapped and not cache.exists()
    found = bench.loaded(**data, images="mapped", cache_dir=str(cache))
    assert found.train.mapped and found.test.mapped and len(list(cache.glob("*.pixels"))) == 1


@reaches("label_column")
def label_column(bench):
    asked = []
    bench.monkeypatch.setattr(load_module, "resident", lambda listing: listing)
    bench.monkeypatch.setattr(
        load_module, "list_parquet", lambda folder, *, label_column, **sizes: asked.append(label_column)
    )
    for column in ("fine_label", ""):
        bench.loaded(dataset="parquet", label_column=column)
    assert asked == ["fine_label", ""]


@reaches("image_size")
def image_size(bench):
    for size in (16, 24):
        dataset = bench.loaded(image_size=size)
        assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (3, size, size)
        assert bench.trainer(dataset, image_size=size).model.pos_embed.shape[1] == 1 + (size // 2) ** 2


@reaches("subset", "test_subset")
def subsets(bench):
    dataset = bench.loaded(subset=90, test_subset=50)
    assert (len(dataset.train), len(dataset.test)) == (90, 50)
    assert bench.trainer(dataset, subset=90).steps_per_epoch == 90 // 32


# augmentation


@reaches("crop_padding")
def crop_padding(bench):
    for padding in (0, 2, 5):
        images = bench.images(image=torch.ones(16, 16), crop_padding=padding)
        black = (images[:, 0].amax(2) == 0).sum(1)  # rows of each
        assert (black.min(), black.max()) == (0, padding)


@reaches("crop", "crop_scale_min", "crop_ratio_min", "crop_interpolation")
def resized_crop(bench):
    """A pixel's colour tells its row and its column, and so the part that an image shows."""
    line = torch.arange(16) / 16
    for vary, image in (("rows", line[:, None].expand(16, 16)), ("columns", line.expand(16, 16))):
        for scale, ratio in ((1.0, 1.0), (0.5, 0.9), (0.05, 0.9)):
            settings = {"crop": "resized", "crop_scale_min": scale, "crop_ratio_min": ratio}
            images = bench.images(image=image, **settings)[:, 0]
            shown = (images.flatten(1).amax(1) - images.flatten(1).amin(1)) * 16 + 1  # pixels of it, about
            assert (shown < 14).any().item() is (scale < 1), (vary, scale)
            assert (shown.min() < 7).item() is (scale == 0.05), (vary, scale)
    shapes = []
    for ratio in (1.0, 0.3):
        resized = bench.recipe(crop="resized", crop_ratio_min=ratio).augmentation.resized
        crops = resized.draw(generator(0, 0, ""), 500, 99)
        shapes.append(np.abs(np.log(crops[2] / crops[3])).max())
    assert shapes[0] < 0.1 < 1 < shapes[1]
    sharp = (torch.arange(16) % 2 * 1.0).expand(16, 16)
    cubic, linear = (
        bench.images(image=sharp, crop="resized", crop_interpolation=name) for name in ("bicubic", "bilinear")
    )
    assert cubic.std() > 1.02 * linear.std()  # it overshoots at edges


@reaches("flip")
def flip(bench):
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    for flip, share in ((False, 0.0), (True, 0.5)):
        mirrored = bench.images(image=left, flip=flip)[:, 0, 0, -1]
        assert mirrored.mean().item() == pytest.approx(share, abs=0.1)


@reaches("rand_ops", "rand_magnitude")
def rand_augment(bench):
    train = bench.dataset.train
    order = generator(0, 0, "order").permutation(len(train))
    images = train.images[torch.from_numpy(order)]
    seen = []
    for operations, magnitude in ((0, 9), (1, 9), (3, 9), (1, 25)):
        draws = randaugment.draw(generator(0, 0, "randaugment"), len(order), operations)
        expected = randaugment.apply(images, draws, magnitude) / 255
        seen.append(bench.images(rand_ops=operations, rand_magnitude=magnitude))
        assert torch.equal(seen[-1], expected)
    assert torch.equal(seen[0], images / 255)
    assert not any(torch.equal(one, two) for i, one in enumerate(seen) for two in seen[:i])


@reaches("erase")
def erase(bench):
    for probability in (0.0, 0.3, 1.0):
        erased = (bench.images(image=torch.ones(16, 16), erase=probability) != 1).flatten(1).any(1)
        assert erased.float().mean().item() == pytest.approx(probability, abs=0.1 * (0 < probability < 1))


@reaches("mixup_alpha")
def mixup_alpha(bench):
    """Beta(alpha, alpha) is near 1/2 for a large alpha, near 0 and 1 for a small one."""
    for alpha, lowest, highest in ((100.0, 0.0, 0.2), (0.02, 0.4, 0.5)):
        maps = torch.stack([batch.mix for batch in bench.batches(epochs=6, mixup_alpha=alpha)])
        assert len(maps) == 30 and (maps.amax((1, 2)) == maps.amin((1, 2))).all()
        distance = (maps[:, 0, 0] - 0.5).abs()
        assert lowest <= distance.median() and (alpha < 1 or distance.max() <= highest)
    assert all(batch.mix is None for batch in bench.batches())


@reaches("cutmix_alpha")
def cutmix_alpha(bench):
    """A box of half of the image for a large alpha, but for its parts beyond the edge; all or nothing for a small."""
    boxes = {}
    for alpha in (100.0, 0.02):
        maps = torch.stack([batch.mix for batch in bench.batches(epochs=6, cutmix_alpha=alpha)])
        assert ((maps == 0) | (maps == 1)).all()
        boxes[alpha] = (maps == 0).sum((1, 2))
    assert boxes[100.0].min() > 0 and 100 <= boxes[100.0].max() <= 144
    assert (boxes[0.02] == 0).sum() > 5 and boxes[0.02].max() > 144


@reaches("cutmix_share")
def cutmix_share(bench):
    for share in (0.0, 0.3, 1.0):
        batches = bench.batches(epochs=40, batch_size=32, mixup_alpha=1.0, cutmix_alpha=1.0, cutmix_share=share)
        boxed = [bool(((batch.mix == 0) | (batch.mix == 1)).all()) for batch in batches]
        assert np.mean(boxed) == pytest.approx(share, abs=0.1 * (0 < share < 1))


@pytest.mark.parametrize("name", CHECKS)
def test_the_setting_reaches_what_it_sets(bench, name):
    CHECKS[name](bench)
