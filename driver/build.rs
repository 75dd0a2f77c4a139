//! Compiles our own protos and what the kubelet asks of plugins; protox reads the .proto files, so no protoc is needed. The
//! descriptors are kept beside the code: requests are shown by them.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    for name in ["agent", "enrol", "health", "operator", "registration"] {
        compiler.open_file(format!("{name}.proto"))?;
    }
    fs::write(out.join("stillpoint.bin"), compiler.encode_file_descriptor_set())?;
    // Chunks of images: passed on without being copied.
    let chunks = tonic_prost_build::configure().bytes(".stillpoint.agent.v1.ExportChunk.data");
    chunks.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
