//! The rules engine: what is done to an application around a cut.
//!
//! A **rule** says, step by step, which pods are worked with and what runs in them before and after the cut.
//! One use of it is a **run**:
//!
//! 1. [`text`] reads YAML (our own form, the short form, Stork's) into an [`api::Rule`], or says where and why not.
//! 2. [`plan`] turns rule + pods + volumes into a [`plan::Plan`]: every pod pinned, every order fixed. It decides
//!    with [`select`] and executes nothing, so it can be shown to a person first.
//! 3. [`machine`] is the run itself as a pure function `step(state, event) -> (state, orders)`: its turn, all `before`
//!    commands, then sessions, then the cut, then the seal, then every `after` that is owed, whatever happened.
//!    [`turns`] decides whose turn it is: runs that use the same pods or volumes never overlap.
//! 4. [`engine`] is the thin shell that carries the orders out over the [`ports`] and bounds every wait.
//! 5. [`run`] is the record that a run leaves: who ran what, when, how it ended, what is still owed.
//! 6. [`schedule`] says when runs are due and [`retain`] which cuts are kept; [`executor`] decides with both what is
//!    started, skipped, given up and deleted. All three are pure; standalone mode does what they say.
//!
//! ```text
//! text ─► api ─► plan ─► machine ◄─► engine ─► ports ◄─ standalone | kube | tests
//! ```
//!
//! Guarantees: nothing is held before every `before` succeeded; what must be undone is in the journal before the
//! doing starts; an `after` runs for every step that was started, also on failure, cancel and restart; a cut is
//! never continued by a process that did not see its own quiesce.
//!
//! The core ([`api`], [`text`], [`select`], [`plan`], [`machine`], [`run`], [`turns`], [`schedule`], [`retain`], [`executor`]) does no I/O and knows no clock.
//! Adapters live in [`standalone`] and, with the feature `kube`, in `kube`; the storage's side of the ports lives in the driver.

pub mod api;
pub mod engine;
pub mod executor;
pub mod failure;
mod http;
#[cfg(feature = "kube")]
pub mod kube;
pub mod lint;
mod listen;
pub mod machine;
mod output;
pub mod plan;
pub mod ports;
mod redact;
pub mod retain;
pub mod run;
pub mod schedule;
pub mod select;
mod session;
pub mod standalone;
pub mod text;
pub mod turns;
