"""An epoch's augmentation against loops over single images, and erasing against torchvision's."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomErasing

from ptd_core.data import augment, randaugment
from ptd_core.data.augment import Augmentation, augment_epoch, crop_and_flip
from ptd_core.data.erasing import Boxes, Noise, draw_boxes, erase_boxes
from ptd_core.machine.randomness import generator

SIZE = 32
FULL = Augmentation(crop_padding=4, flip=True, rand_ops=2, rand_magnitude=7, erase=0.5)
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (60, 3, SIZE, SIZE), dtype=np.uint8))
ORDER = RNG.permutation(60)


def epoch_of(augmentation, *, images=IMAGES, order=ORDER, seed=0, epoch=0, chunk=1000):
    return torch.cat(list(augment_epoch(images, order, augmentation, seed=seed, epoch=epoch, chunk=chunk)))


def test_no_augmentation_is_the_images_in_order():
    out = epoch_of(Augmentation())
    assert out.dtype == torch.float32
    assert torch.equal(out, IMAGES[ORDER].float() / 255)
    assert torch.equal(epoch_of(Augmentation(), order=torch.from_numpy(ORDER)), out)


def test_chunks_have_at_most_the_size_asked_for():
    sizes = [len(c) for c in augment_epoch(IMAGES, ORDER, FULL, seed=0, epoch=0, chunk=25)]
    assert sizes == [25, 25, 10]


def test_a_shorter_order_is_a_shorter_epoch():
    assert epoch_of(FULL, order=ORDER[:7]).shape == (7, 3, SIZE, SIZE)
    assert list(augment_epoch(IMAGES, ORDER[:0], FULL, seed=0, epoch=0, chunk=10)) == []


@pytest.mark.parametrize("size", [SIZE, 7])
@pytest.mark.parametrize("chunk", [1, 13, 60])
def test_function_of_seed_and_epoch_not_of_chunk_size(size, chunk, monkeypatch):
    images = IMAGES[..., :size, :size].contiguous()
    whole = epoch_of(FULL, images=images)
    assert torch.equal(epoch_of(FULL, images=images), whole)
    assert not torch.equal(epoch_of(FULL, images=images, epoch=1), whole)
    assert not torch.equal(epoch_of(FULL, images=images, seed=1), whole)
    monkeypatch.setitem(augment.BLOCK_BYTES, "cpu", 5 * 4 * 3 * size * size)
    assert torch.equal(epoch_of(FULL, images=images, chunk=chunk), whole)


def test_result_ignores_the_global_generators():
    torch.manual_seed(1)
    first = epoch_of(FULL)
    torch.manual_seed(2)
    assert torch.equal(epoch_of(FULL), first)


def test_crop_and_flip_equal_a_loop_over_images():
    padding, n = 4, len(IMAGES)
    top, left = RNG.integers(0, 2 * padding + 1, size=(2, n))
    flip = RNG.random(n) < 0.5
    top[:4], left[:4] = (0, 0, 8, 8), (0, 8, 0, 8)  # the corners
    out = crop_and_flip(IMAGES, padding, top, left, flip)
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for image, y, x, mirrored, got in zip(padded, top, left, flip, out.numpy(), strict=True):
        expected = image[:, y : y + SIZE, x : x + SIZE]
        assert np.array_equal(got, expected[:, :, ::-1] if mirrored else expected)


def test_an_epoch_is_crop_flip_randaugment_in_this_order():
    """Put together again from the same draws, one image at a time."""
    seed, epoch, m = 3, 5, len(ORDER)
    top, left = generator(seed, epoch, "crop").integers(9, size=(2, m))
    flip = generator(seed, epoch, "flip").random(m) < 0.5
    draws = randaugment.draw(generator(seed, epoch, "randaugment"), m, 2)
    out = epoch_of(Augmentation(4, True, 2, 7), seed=seed, epoch=epoch)
    for i in range(m):
        image = torch.nn.functional.pad(IMAGES[ORDER[i]], (4, 4, 4, 4))
        image = image[:, top[i] : top[i] + SIZE, left[i] : left[i] + SIZE]
        image = image.flip(-1) if flip[i] else image
        image = randaugment.apply(image[None], draws[i : i + 1], 7)[0]
        assert torch.equal(out[i], image.float() / 255)


def test_offsets_and_flips_are_uniform():
    # Every pixel tells its own place, so that the result tells the draws.
    numbered = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4) + 1
    order = np.zeros(9000, dtype=np.int64)
    out = (epoch_of(Augmentation(crop_padding=1), images=numbered, order=order) * 255).round().long()
    # The pixel at row 1, column 1 shows the source pixel at (top, left), each of 0..2 when padding is 1.
    source = out[:, 0, 1, 1] - 1
    counts = torch.bincount(source // 4 * 3 + source % 4, minlength=9)
    assert len(counts) == 9 and ((counts - 1000.0) ** 2 / 1000).sum() < 26.1  # 8 degrees of freedom, p = 0.001
    flipped = epoch_of(Augmentation(flip=True), images=numbered, order=order)[:, 0, 0, 0] * 255 > 2
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.02)


def test_range_without_erasing():
    out = epoch_of(Augmentation(4, True, 2, 30))
    assert out.min() >= 0 and out.max() <= 1


def test_erasing_replaces_exactly_one_box_by_noise():
    out = epoch_of(Augmentation(erase=0.5))
    changed = out != IMAGES[ORDER].float() / 255
    erased = changed.flatten(1).any(1)
    assert 15 < erased.sum() < 45
    for mask in changed[erased]:
        assert torch.equal(mask[0], mask[1]) and torch.equal(mask[0], mask[2])
        rows, columns = mask[0].any(1), mask[0].any(0)
        assert torch.equal(mask[0], rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert places[-1] - places[0] + 1 == len(places)
    noise = out[changed]
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)
    # No two boxes, and no two channels, share their noise.
    assert len(noise.unique()) > 0.99 * len(noise)


def test_erase_boxes_writes_the_given_noise_into_the_given_box():
    boxes = Boxes(*(np.array(v) for v in ([1, 3], [2, 0], [5, 30], [4, 32 - 1], [1, 2])))
    images, noise = torch.zeros(4, 3, SIZE, SIZE), torch.randn(2, 3, SIZE, SIZE)
    expected = images.clone()
    expected[1, :, 2:6, 5:6] = noise[0, :, 2:6, 5:6]
    expected[3, :, 0:31, 30:32] = noise[1, :, 0:31, 30:32]
    erase_boxes(images, boxes, noise)
    assert torch.equal(images, expected)


@pytest.mark.parametrize("size", [SIZE, 8])
def test_boxes_are_distributed_as_torchvisions(size):
    n = 3000
    ours = draw_boxes(np.random.default_rng(0), n, size, 1.0)
    torch.manual_seed(0)
    image = torch.empty(3, size, size)
    theirs = np.array([RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(n)])
    theirs = theirs[theirs[:, 2] < size]  # a box as large as the image is torchvision's sign for none found
    assert len(ours.images) == pytest.approx(len(theirs), abs=0.01 * n)
    pairs = zip((ours.top, ours.left, ours.height, ours.width), theirs.T, strict=True)
    for mine, reference in [*pairs, (ours.height * ours.width, theirs[:, 2] * theirs[:, 3])]:
        # Largest distance of the two distributions (Kolmogorov-Smirnov): beyond this once in a thousand.
        grid = np.arange(size * size + 1)
        ecdf = [np.searchsorted(np.sort(v), grid, side="right") / len(v) for v in (mine, reference)]
        assert np.abs(ecdf[0] - ecdf[1]).max() < 1.95 * np.sqrt(2 / n)
    ratio, reference = np.log(ours.height / ours.width), np.log(theirs[:, 2] / theirs[:, 3])
    assert ratio.mean() == pytest.approx(reference.mean(), abs=0.07)
    assert ratio.std() == pytest.approx(reference.std(), abs=0.05)


def test_boxes_come_with_the_probability_asked_for():
    assert len(draw_boxes(np.random.default_rng(0), 10_000, SIZE, 0.1).images) == pytest.approx(1000, abs=120)
    assert len(draw_boxes(np.random.default_rng(0), 100, SIZE, 0.0).images) == 0
    assert len(draw_boxes(np.random.default_rng(0), 100, SIZE, 1.0).images) == 100


def test_an_image_too_small_for_any_box_stays_whole():
    assert len(draw_boxes(np.random.default_rng(0), 100, 1, 1.0).images) < 100
    assert torch.isfinite(epoch_of(Augmentation(erase=1.0), images=IMAGES[..., :1, :1].contiguous())).all()


def test_large_images_take_less_noise_at_a_time():
    for size, most in ((32, 64), (128, 64), (256, 16), (512, 4)):
        assert len(Noise(5, (3, size, size), torch.device("cpu"))._block) == most


def test_noise_does_not_depend_on_how_many_are_taken_at_a_time():
    sequences = []
    for sizes in ([150], [1, 63, 64, 22], [0, 149, 1]):
        noise, numbers = Noise(5, (3, 5, 5), torch.device("cpu")), np.arange(150)
        sequences.append(torch.cat([noise.at(part) for part in np.split(numbers, np.cumsum(sizes)[:-1])]))
    assert sequences[0].shape == (150, 3, 5, 5)
    assert all(torch.equal(s, sequences[0]) for s in sequences)


@pytest.mark.parametrize("numbers", [[[0], [1]], [[3, 63, 64], [65, 140]], [[149]], [[], [127, 128], []]])
def test_noise_is_found_by_its_number_whatever_was_left_out(numbers):
    whole = Noise(5, (3, 5, 5), torch.device("cpu")).at(np.arange(150))
    noise = Noise(5, (3, 5, 5), torch.device("cpu"))
    for part in numbers:
        assert torch.equal(noise.at(np.array(part, dtype=np.int64)), whole[part])


@pytest.mark.parametrize("ahead", [None, IMAGES.__getitem__], ids=["", "ahead"])
@pytest.mark.parametrize("chunk", [1, 7, 60])
@pytest.mark.parametrize("places", [np.arange(0, 60, 2), np.arange(1, 60, 3), np.array([5]), np.arange(31, 60)])
def test_some_places_alone_are_what_they_are_in_the_whole(places, chunk, ahead, monkeypatch):
    monkeypatch.setitem(augment.BLOCK_BYTES, "cpu", 5 * 4 * 3 * SIZE * SIZE)
    some = augment_epoch(IMAGES, ORDER, FULL, seed=0, epoch=0, chunk=chunk, places=places, ahead=ahead)
    assert torch.equal(torch.cat(list(some)), epoch_of(FULL)[places])


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop_padding", -1), ("rand_ops", -1), ("rand_magnitude", 31), ("rand_magnitude", -1), ("erase", 1.1),
     ("erase", -0.1), ("erase", float("nan"))],
)  # fmt: skip
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})


def test_bad_arguments_are_refused_at_the_call():
    for images in (IMAGES.float(), IMAGES[:, :1], IMAGES[..., :16], IMAGES[0]):
        with pytest.raises(ValueError, match="images must be uint8"):
            augment_epoch(images, ORDER, FULL, seed=0, epoch=0, chunk=10)
    with pytest.raises(ValueError, match="chunk is 0"):
        augment_epoch(IMAGES, ORDER, FULL, seed=0, epoch=0, chunk=0)
