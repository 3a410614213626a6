//! Given policy, call and time: the verdict. Pure: no I/O, no clock, no environment, no task.
//!
//! The way through: [`source::load`] reads YAML into resources and tells what is wrong with them, [`compile()`] makes
//! a [`PolicySet`] of them, [`PolicySet::decide`] judges a call. Only a judgement makes a [`Grant`], and without one
//! nothing is forwarded.
//!
//! ```
//! use sideguard_policy::{compile, source};
//!
//! let text = "version: v1\nrules:\n  - {id: no-deletes, match: {verbs: [admin]}, decision: deny}\n";
//! let set = compile(&source::load(&[source::Source::new("safety.yaml", text)])).map_err(|f| f.len());
//! assert_eq!(set.map(|set| set.rule_count()), Ok(1));
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod cases;
pub mod chain;
mod filter;
pub mod fmt;
pub mod ledger;
pub mod lint;
pub mod path;
pub mod pool;
pub mod redact;
pub mod source;
pub mod workflow;

mod classify;
mod compile;
mod content;
mod explain;
mod glob;
mod identity;
mod policy;
mod reading;
mod when;
mod yaml;

pub use classify::{Classifier, ToolHints};
pub use compile::compile;
pub use explain::{DocumentStory, Explanation, NearMiss, Saying};
pub use filter::Filter;
pub use identity::Identity;
pub use policy::{Grant, PolicySet, Ruling};
