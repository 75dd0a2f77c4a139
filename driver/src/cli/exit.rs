//! Exit codes, and the one line that an error is.

use crate::domain::{Code, Fault};

/// The exit code that a fault ends a command with; documented in the help text.
pub const fn code(fault: &Fault) -> u8 {
    match fault.code {
        Code::Invalid | Code::OutOfRange | Code::AlreadyExists | Code::Unimplemented => 2,
        Code::Aborted | Code::Unavailable | Code::Deadline | Code::Exhausted => 3,
        Code::NotFound => 4,
        Code::Precondition | Code::Denied | Code::Internal => 1,
    }
}

/// The fault as one line without control characters, so that it can be read in a log and cannot steer a terminal.
pub fn line(fault: &Fault) -> String {
    let parts: Vec<_> = fault.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("stillpoint: {}", crate::observe::plain::printable(&parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_can_tell_wrong_from_later_from_missing() {
        assert_eq!(code(&Fault::invalid("")), 2);
        assert_eq!(code(&Fault::unavailable("")), 3);
        assert_eq!(code(&Fault::aborted("")), 3);
        assert_eq!(code(&Fault::exhausted("")), 3);
        assert_eq!(code(&Fault::not_found("")), 4);
        assert_eq!(code(&Fault::internal("")), 1);
        assert_eq!(code(&Fault::precondition("")), 1);
    }

    #[test]
    fn an_error_is_one_line_that_cannot_steer_a_terminal() {
        let fault = Fault::invalid("first\n  second\x1b[2J\n\n");
        assert_eq!(line(&fault), "stillpoint: first; second\\u{1b}[2J");
    }
}
