"""Coverage is a share of all objects' pixels together: a large object counts for more than a small one."""

import torch

from ptd_core.saliency import object_coverage


def test_objects_of_different_sizes_count_by_their_pixels():
    kept = torch.tensor([[[True, False], [False, False]]] * 3)
    objects = torch.zeros(3, 4, 4, dtype=torch.bool)
    objects[0, 0, 0] = True  # 1 pixel, kept
    objects[1] = True  # 16 pixels, 4 of them kept
    objects[2, 2:, 2:] = True  # 4 pixels, none kept
    assert object_coverage(kept, objects) == (1 + 4 + 0) / (1 + 16 + 4)  # not the mean of 1, 1/4 and 0


def test_an_image_without_an_object_changes_nothing():
    kept = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    objects = torch.zeros(2, 4, 4, dtype=torch.bool)
    objects[0, :2] = True
    assert object_coverage(kept, objects) == 0.5
