"""Progressive Token Drop: train a vision transformer on fewer tokens, by a curriculum, evaluate on all of them."""
