//! The words of Sideguard, as data: what a call is, what a verdict says, how tokens and money are
//! counted, what a record holds, and what a user writes in a resource file.
//!
//! Nothing here does I/O, reads a clock or decides anything. Start at [`call::Call`], what policy
//! sees, and [`verdict::Verdict`], what it answers.

pub mod audit;
pub mod call;
pub mod control;
pub mod delegation;
pub mod job;
pub mod refusal;
pub mod resource;
pub mod time;
pub mod units;
pub mod usage;
pub mod verdict;
pub mod workflow;
