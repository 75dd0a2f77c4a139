//! What is wrong with a text.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One thing that is wrong, and how to put it right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Field path, as `spec.steps[0].before.timeout`; empty for the whole text.
    pub field: String,
    /// Line, counted from 1.
    pub line: Option<u32>,
    /// Column, counted from 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub what: String,
    /// Why that is refused.
    pub why: String,
    /// How to fix it.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            field: String::new(),
            line: None,
            column: None,
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    pub(super) fn at(mut self, place: Option<(u32, u32)>) -> Self {
        (self.line, self.column) = place.unzip();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}; {}", self.what, self.why, self.fix)
    }
}

/// A text that was refused. Nothing was done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// The file, where it came from one.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl TextError {
    pub(crate) fn single(problem: Problem) -> Self {
        Self { file: None, problems: vec![problem] }
    }

    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if let Some(file) = &self.file {
                write!(f, "{}: ", file.display())?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for TextError {}
