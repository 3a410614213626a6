//! The Kubernetes injector: it puts the sidecar into pods, as an admission webhook or into manifests.
//!
//! [`inject::inject`] is the heart: a pure function from a pod, its namespace and what is known of the cluster to the
//! operations of a JSON patch. [`validate`] has the last word on a pod, after other webhooks. [`review`] is what the API server
//! asks and is told. Nothing of a review asks the network: what is known of the cluster is a snapshot ([`known`]), and the
//! port's certificate can be replaced at any time ([`certificate`]).
//!
//! It never reads a pod into types: what it does not know stays as it is. It never lets a pod through that it cannot read.

pub mod app;
pub mod certificate;
pub mod cluster;
pub mod daemon;
pub mod inject;
pub mod known;
pub mod label;
pub mod manifest;
pub mod refusal;
pub mod review;
pub mod settings;
pub mod validate;

mod admin;
mod block;
mod covers;
mod edit;
mod guard;
mod metrics;
mod parts;
mod pod;
mod quantity;
mod serve;
mod wish;
