"""The grid of patch tokens that a ViT makes of a square image."""


class TokenGrid:
    """What follows for a description of a ViT that has `img_size` and `stride`, the pixels per token side."""

    img_size: int
    stride: int

    @property
    def grid_size(self) -> int:
        """Patch tokens a side."""
        return self.img_size // self.stride

    @property
    def patch_tokens(self) -> int:
        """N."""
        return self.grid_size**2
