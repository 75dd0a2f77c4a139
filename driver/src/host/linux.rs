//! The real kernel, through nix.
