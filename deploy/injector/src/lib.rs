//! The Kubernetes injector: its side towards the cluster.

pub mod certificate;
pub mod cluster;
pub mod known;
pub mod label;
