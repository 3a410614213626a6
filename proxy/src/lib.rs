//! The sidecar: from an agent's connection to the upstream and back.
//!
//! One call goes one way, [`flow`](crate): accept → identify → classify → decide → reserve → record → forward →
//! observe. Every stage is a module; none imports another; what they hand on is in `call`. Around them: `engine` (the
//! only module that names pingora), `tunnel` (CONNECT and redirected connections), `ports` and `nameserver` (how agents come in), `feed` (the policy in force), `upstreams`, `prices`, `fleet` and `ship` (what comes from control, and what goes there), and the
//! composition root [`app`]. Nothing here knows of the control service.

mod accept;
mod admin;
pub mod app;
mod approve;
mod audit;
mod breaker;
mod call;
mod classify;
pub mod config;
pub mod daemon;
mod decide;
mod delegate;
mod delegations;
mod engine;
mod escrow;
pub mod feed;
mod fleet;
mod flow;
mod forward;
mod identify;
mod inbound;
mod lease;
mod metrics;
mod nameserver;
mod observe;
mod opening;
pub mod ports;
mod prices;
mod rates;
mod reserve;
mod resolve;
mod respond;
pub mod roots;
mod sessions;
mod ship;
mod trace;
mod tunnel;
pub mod upstreams;
mod waits;
pub mod work;
