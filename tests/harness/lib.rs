//! What the promises are tried with: fake upstreams on loopback that count what reaches them, and the built binary
//! under a configuration of the test's own.

pub mod browser;
pub mod client;
pub mod cluster;
pub mod command;
pub mod control;
pub mod fake;
pub mod injector;
pub mod kubelet;
pub mod model;
pub mod pod;
pub mod raw;
pub mod relay;
pub mod servers;
pub mod service;
pub mod setting;
pub mod sidecar;
pub mod tls;

pub use cluster::Cluster;
pub use fake::{Fake, Seen};
pub use injector::Injector;
pub use pod::Pod;
pub use raw::RawFake;
pub use relay::Relay;
pub use service::{Backend, Service};
pub use sidecar::Sidecar;

/// Makes of each `async fn NAME(backend: Backend)` two tests, `embedded::NAME` and `shared::NAME`: the same promise on the
/// store of one machine and on Redis with NATS.
#[macro_export]
macro_rules! on_every_store {
    ($($case:ident)+) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(harness::Backend::Embedded).await;
            })+
        }
        mod shared {
            $(#[tokio::test]
            async fn $case() {
                super::$case(harness::Backend::Shared).await;
            })+
        }
    };
}

/// Waits until something holds, looking every 5 ms.
///
/// # Panics
/// When it does not within 10 s.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("not within 10 s: {what}");
}
