//! memory trees.
