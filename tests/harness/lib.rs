//! What the promises are tried with: fake upstreams on loopback that count what reaches them, and the built binary
//! under a configuration of the test's own.

pub mod client;
pub mod fake;
pub mod sidecar;
pub mod tls;

pub use fake::{Fake, Seen};
pub use sidecar::Sidecar;
