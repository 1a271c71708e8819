"""A local page over a table of pictures: browse, search, compare, mark, paint."""

from stablerep.gallery.serve import GalleryConfig, serve_gallery

__all__ = ["GalleryConfig", "serve_gallery"]
