//! What happened when a rule was tried.

use stillpoint_rules::run::{Attempt, Run};

use crate::observe::duration::human;
use crate::observe::table::with_header;

/// A line for each try in each pod, then how it ended.
pub(super) fn report(run: &Run) -> String {
    let mut table = with_header(&["STEP", "ACTION", "POD", "TRY", "TOOK", "ENDED", "COMMAND"]);
    for attempt in &run.attempts {
        table.add_row([
            attempt.step.clone(),
            format!("{:?}", attempt.action).to_lowercase(),
            format!("{}/{}", attempt.target.namespace, attempt.target.pod),
            attempt.number.to_string(),
            human(attempt.duration_us),
            ended(attempt),
            attempt.command.clone(),
        ]);
    }
    let mut text = table.to_string();
    for attempt in run.attempts.iter().filter(|attempt| !attempt.output.trim().is_empty()) {
        text.push_str(&format!(
            "\n\n{} in {}/{} printed:\n{}",
            attempt.command,
            attempt.target.namespace,
            attempt.target.pod,
            attempt.output.trim_end()
        ));
    }
    if let Some(skew) = run.session_skew_us {
        text.push_str(&format!("\n\nsessions: {} between the first and the last that held", human(skew)));
    }
    text.push_str(&format!("\n\nnothing was cut; the rule {}", run.verdict()));
    text
}

fn ended(attempt: &Attempt) -> String {
    match (&attempt.error, attempt.exit_code, attempt.http_status) {
        (Some(error), _, _) => error.clone(),
        (None, Some(code), _) => format!("exit code {code}"),
        (None, None, Some(status)) => format!("status {status}"),
        (None, None, None) => "well".to_owned(),
    }
}
