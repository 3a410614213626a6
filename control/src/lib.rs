//! The control service: one place that governs a fleet of sidecars.
//!
//! It keeps the desired state as a sequence of generations ([`desired`]), hands each one signed to the sidecars that watch for
//! it ([`feed`]), grants them leases of budgets ([`budgets`]), knows how they stand ([`registry`]), keeps the record that they
//! ship and finds it again ([`records`]), stops what a kill switch names ([`kills`]), gives jobs to workers ([`jobs`]) and runs
//! workflows ([`workflows`]), of which [`dag`] says what becomes. Who may do what is settled by keys ([`keys`]). What a
//! Kubernetes cluster's users write, and whose its service accounts are, comes in by [`cluster`]. [`api`] has one file for
//! each part; [`app`] puts everything together. Nothing here knows the
//! proxy; what is kept goes through `sideguard-store`.

pub mod api;
pub mod app;
mod approvals;
mod budgets;
mod cluster;
pub mod daemon;
mod dag;
mod delegations;
pub mod desired;
mod error;
mod feed;
mod jobs;
mod keys;
mod kills;
mod known;
mod limits;
mod metrics;
mod openapi;
mod operator;
mod page;
mod records;
mod registry;
mod scheduler;
mod serve;
mod sessions;
mod signer;
mod sinks;
mod webhook;
mod workflows;

pub use error::Failure;
pub use serve::tls::TlsError;
