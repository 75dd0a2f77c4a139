//! What people see of the system: logs that are silent during a hold, spans of calls, metrics, lengths of time in words,
//! and the timeline of a cut as text, JSON and a picture. Renderers are pure: they take what happened and return text.

pub mod duration;
pub mod holds;
pub mod log;
pub mod metrics;
pub mod plain;
pub mod request;
pub mod rpc;
pub mod table;
pub mod timeline;
