//! What people see of the system: logs, lengths of time in words, and the timeline of a cut as text, JSON and a
//! picture. Renderers are pure: they take what happened and return text.

pub mod duration;
pub mod log;
pub mod plain;
pub mod table;
pub mod timeline;
