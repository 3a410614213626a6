//! Bytes in, facts out: what a call to a model or a tool server says, in its provider's words.
//!
//! Nothing here does I/O, reads a clock or decides anything, and no input can make it panic: hostile bytes
//! are ordinary input. What was understood is handed out as spans of the bytes that will be sent, so that
//! what is judged and what leaves are the same.
//!
//! The way of a request: [`detect::detect`] says which operation it is, [`request::read`] what it asks for
//! and the most input that it can be charged for, [`edit::apply`] splices in what policy wants changed. A
//! refusal takes the caller's own form in [`refuse`]. The way of an answer: [`watch`] for streams,
//! [`usage::whole`] for the rest.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod count;
pub mod detect;
pub mod edit;
pub mod json;
pub mod listing;
pub mod refuse;
pub mod request;
pub mod sse;
pub mod usage;
pub mod watch;
