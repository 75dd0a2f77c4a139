//! Compiles our own protos and what the kubelet asks of plugins; protox reads the .proto files, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos =
        ["agent", "enrol", "health", "operator", "registration"].map(|name| format!("proto/{name}.proto"));
    let files = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
