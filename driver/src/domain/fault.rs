//! The error that crosses a boundary: what gRPC callers, the controller and the command line see.
//!
//! Each module has an error enum of its own that knows its objects; it becomes a [`Fault`] where it leaves the
//! module for another process. One place (`wire::status`) maps faults to gRPC statuses and back.

use std::fmt;

/// What kind of failure it is. The doc of each says what a caller may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong and stays wrong: INVALID_ARGUMENT.
    Invalid,
    /// The object does not exist: NOT_FOUND.
    NotFound,
    /// The name is taken by something with other properties: ALREADY_EXISTS.
    AlreadyExists,
    /// No space or no fitting place: RESOURCE_EXHAUSTED. Nothing was made.
    Exhausted,
    /// The size is outside what is possible: OUT_OF_RANGE.
    OutOfRange,
    /// Something else must be done first: FAILED_PRECONDITION.
    Precondition,
    /// Another operation on the object is under way, or the attempt was given up; try again: ABORTED.
    Aborted,
    /// A part that is needed does not answer; try again: UNAVAILABLE.
    Unavailable,
    /// It took longer than allowed; try again: DEADLINE_EXCEEDED.
    Deadline,
    /// The peer may not do this: PERMISSION_DENIED.
    Denied,
    /// Not offered: UNIMPLEMENTED.
    Unimplemented,
    /// A bug or a broken machine: INTERNAL.
    Internal,
}

impl Code {
    /// Whether a caller may conclude that nothing exists and nothing is under way.
    pub fn is_final(self) -> bool {
        match self {
            Self::Aborted | Self::Unavailable | Self::Deadline | Self::Exhausted => false,
            Self::Invalid
            | Self::NotFound
            | Self::AlreadyExists
            | Self::OutOfRange
            | Self::Precondition
            | Self::Denied
            | Self::Unimplemented
            | Self::Internal => true,
        }
    }
}

/// A failure in words: what happened, why, and how to fix it, with a [`Code`] for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For programs.
    pub code: Code,
    /// For people: what, why, fix, in one line.
    pub message: String,
}

impl Fault {
    /// A fault with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same fault with `context: ` in front of its text.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { code: self.code, message: format!("{context}: {}", self.message) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// One short constructor per code: `Fault::invalid("…")`.
macro_rules! constructors {
    ($($name:ident => $code:ident),* $(,)?) => {
        impl Fault {$(
            #[doc = concat!("A fault with [`Code::", stringify!($code), "`].")]
            pub fn $name(message: impl Into<String>) -> Self { Self::new(Code::$code, message) }
        )*}
    };
}
constructors! {
    invalid => Invalid, not_found => NotFound, already_exists => AlreadyExists, exhausted => Exhausted,
    out_of_range => OutOfRange, precondition => Precondition, aborted => Aborted, unavailable => Unavailable,
    deadline => Deadline, denied => Denied, unimplemented => Unimplemented, internal => Internal,
}
