//! The one place where a [`Fault`] becomes a gRPC status and a status becomes a fault.
//!
//! The mapping of codes is one to one, so a fault survives the way through any number of processes. Statuses
//! that no fault produces (UNKNOWN, CANCELLED, …) come from gRPC libraries and proxies; they are given the
//! nearest meaning that promises nothing.

use std::error::Error;

use tonic::{Code as Grpc, Status};

use crate::domain::{Code, Fault};

/// Messages travel in an HTTP/2 header, of which peers accept 16 KiB in total, percent-encoded.
const MESSAGE_LIMIT: usize = 4096;
/// Causes that are told of a failed connection.
const CAUSES_LIMIT: usize = 8;

/// The status that tells a caller about this fault.
pub fn status_of(fault: Fault) -> Status {
    Status::new(grpc_of(fault.code), bounded(fault.message))
}

/// The fault that a peer told about, or that the connection to it failed.
///
/// A status that carries a source was made on this side by the transport, whatever its code: nobody knows what
/// became of the request, so it is [`Code::Unavailable`].
pub fn fault_of(status: Status) -> Fault {
    match status.source() {
        Some(source) => Fault::unavailable(format!("no connection: {}", causes(source))),
        None => Fault::new(code_of(status.code()), status.message()),
    }
}

/// A failed connection in words: what the innermost causes said.
pub fn transport_fault(error: &tonic::transport::Error) -> Fault {
    Fault::unavailable(format!("no connection: {}", causes(error)))
}

fn grpc_of(code: Code) -> Grpc {
    match code {
        Code::Invalid => Grpc::InvalidArgument,
        Code::NotFound => Grpc::NotFound,
        Code::AlreadyExists => Grpc::AlreadyExists,
        Code::Exhausted => Grpc::ResourceExhausted,
        Code::OutOfRange => Grpc::OutOfRange,
        Code::Precondition => Grpc::FailedPrecondition,
        Code::Aborted => Grpc::Aborted,
        Code::Unavailable => Grpc::Unavailable,
        Code::Deadline => Grpc::DeadlineExceeded,
        Code::Denied => Grpc::PermissionDenied,
        Code::Unimplemented => Grpc::Unimplemented,
        Code::Internal => Grpc::Internal,
    }
}

fn code_of(code: Grpc) -> Code {
    match code {
        Grpc::InvalidArgument => Code::Invalid,
        Grpc::NotFound => Code::NotFound,
        Grpc::AlreadyExists => Code::AlreadyExists,
        Grpc::ResourceExhausted => Code::Exhausted,
        Grpc::OutOfRange => Code::OutOfRange,
        Grpc::FailedPrecondition => Code::Precondition,
        Grpc::Aborted | Grpc::Cancelled => Code::Aborted,
        Grpc::Unavailable => Code::Unavailable,
        Grpc::DeadlineExceeded => Code::Deadline,
        Grpc::PermissionDenied | Grpc::Unauthenticated => Code::Denied,
        Grpc::Unimplemented => Code::Unimplemented,
        Grpc::Ok | Grpc::Unknown | Grpc::DataLoss | Grpc::Internal => Code::Internal,
    }
}

/// The chain of causes in one line, each said once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let chain = std::iter::successors(Some(error), |error| (*error).source());
    for text in chain.take(CAUSES_LIMIT).map(ToString::to_string) {
        if !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

fn bounded(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let end = (0..=MESSAGE_LIMIT).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 12] = [
        Code::Invalid,
        Code::NotFound,
        Code::AlreadyExists,
        Code::Exhausted,
        Code::OutOfRange,
        Code::Precondition,
        Code::Aborted,
        Code::Unavailable,
        Code::Deadline,
        Code::Denied,
        Code::Unimplemented,
        Code::Internal,
    ];

    #[test]
    fn every_fault_survives_the_way_there_and_back() {
        for code in CODES {
            let fault = Fault::new(code, "what, why, fix");
            assert_eq!(fault_of(status_of(fault.clone())), fault);
        }
    }

    #[test]
    fn a_status_that_no_fault_makes_is_given_a_meaning_that_promises_nothing() {
        assert_eq!(fault_of(Status::unknown("?")).code, Code::Internal);
        assert_eq!(fault_of(Status::cancelled("?")).code, Code::Aborted);
        assert_eq!(fault_of(Status::unauthenticated("?")).code, Code::Denied);
    }

    #[test]
    fn a_failed_connection_is_unavailable_and_says_why_once() {
        let refused = std::io::Error::other("connection refused");
        let fault = fault_of(Status::from_error(Box::new(refused)));
        assert_eq!(fault, Fault::unavailable("no connection: connection refused"));
    }

    #[test]
    fn a_huge_message_still_fits_a_header_and_stays_text() {
        let status = status_of(Fault::internal("ä".repeat(20_000)));
        assert!(status.message().len() <= MESSAGE_LIMIT + '…'.len_utf8());
        assert!(status.message().ends_with("ä…"));
    }
}
