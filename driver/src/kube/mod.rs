//! Stillpoint in Kubernetes: the same use cases as `standalone`, wired to the API server.
//!
//! Controller: [`controller`] puts the parts together, [`authority`] keeps the certificate authority in a Secret and tells
//! agents where to enrol, [`enrol`] lets agents in ([`tokens`] asks who they are), [`hosts`] remembers where they are, [`pools`] which pools they
//! had; [`ownership`] tells objects of this installation from restored ones.
//! [`runs`]: rules inside the CSI call, so that any tool that asks for a snapshot gets what the application needs;
//! [`lookup`]: which rule that is, and whether it has changed. [`contents`]: what was reached, as annotations; orphans.
//! [`consumers`]: which pods wait for a volume, and where they can run ([`fit`]). [`pool_events`]: claims are told when their
//! pool fills up.
//! Agent: [`agent`] is its process; it has no permission in the cluster and never talks to the API server. [`renewal`]
//! gets its certificates, [`registration`] introduces it to the kubelet. Both: [`health`] answers probes.
//!
//! What decides is pure; what talks to the API server is behind small traits with a double in the tests.

pub mod agent;
pub mod api;
pub mod authority;
pub mod consumers;
pub mod contents;
pub mod controller;
pub mod enrol;
pub mod fit;
pub mod health;
pub mod hosts;
pub mod lookup;
pub mod ownership;
pub mod pool_events;
pub mod pools;
pub mod registration;
pub mod renewal;
pub mod runs;
pub mod storage;
pub mod tokens;

pub use runs::RuledCuts;
