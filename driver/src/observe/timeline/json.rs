//! The timeline for programs: the picture as it is, with the sentences beside it.

use serde_json::{Value, json};

use super::{Picture, findings};

/// One JSON object; instants and lengths in microseconds.
pub fn render(picture: &Picture) -> Value {
    json!({
        "id": picture.id,
        "name": picture.name,
        "level": picture.level,
        "reasons": picture.reasons,
        "cutAt": picture.cut_at,
        "windowUs": picture.timeline.window_us,
        "skewUs": picture.timeline.skew_us,
        "longestStallUs": picture.timeline.longest_stall_us,
        "clockErrorUs": picture.clock_error_us(),
        "heldTogether": matches!(findings::barrier(picture), findings::Barrier::Proven { .. }),
        "findings": findings::sentences(picture),
        "hosts": picture.timeline.hosts,
        "pods": picture.pods,
        "sessionSkewUs": picture.session_skew_us,
    })
}
