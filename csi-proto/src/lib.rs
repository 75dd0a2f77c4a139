//! The Container Storage Interface, version 1.13: messages, clients and servers, generated from our own
//! `proto/csi.proto`. Field and method numbers are pinned by `tests/contract`.
//!
//! Messages that carry secrets print them as `<2 secret entries>`, so that logging a request is safe.

use std::fmt;

/// Package `csi.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
    include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
}

/// The compiled `csi.proto` with its imports and options, as a serialized `FileDescriptorSet`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/csi.bin"));

/// Stands for this many secret entries when a message is printed.
struct Redacted(usize);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} secret entries>", self.0)
    }
}
