//! Generated bindings of the agent's and the operator's API. Proto types stop at the adapters that use them.
#![allow(missing_docs, clippy::pedantic)]

/// `proto/agent.proto`.
pub mod agent {
    tonic::include_proto!("stillpoint.agent.v1");
}
/// `proto/operator.proto`.
pub mod operator {
    tonic::include_proto!("stillpoint.operator.v1");
}
