//! Compiles our own protos and what the kubelet asks of plugins; protox reads the .proto files, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos =
        ["agent", "enrol", "health", "operator", "registration"].map(|name| format!("proto/{name}.proto"));
    let files = protox::compile(protos, ["proto"])?;
    // Chunks of images: passed on without being copied.
    tonic_prost_build::configure().bytes(".stillpoint.agent.v1.ExportChunk.data").compile_fds(files)?;
    Ok(())
}
