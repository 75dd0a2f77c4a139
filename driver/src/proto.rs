//! Generated bindings of our own protos, and of what the kubelet asks of plugins. Proto types stop at the adapters that use them.
#![allow(missing_docs, clippy::pedantic)]

/// `proto/agent.proto`.
pub mod agent {
    tonic::include_proto!("stillpoint.agent.v1");
}
/// `proto/operator.proto`.
pub mod operator {
    tonic::include_proto!("stillpoint.operator.v1");
}
/// `proto/enrol.proto`.
pub mod enrol {
    tonic::include_proto!("stillpoint.enrol.v1");
}
/// `proto/registration.proto`.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
/// `proto/health.proto`.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The compiled protos with their imports, as a serialized `FileDescriptorSet`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stillpoint.bin"));
