//! What Sideguard asks of a Kubernetes cluster, and how its kinds are written there.
//!
//! [`kinds`] is the one list of kinds that a cluster's users write; [`definition`] makes custom resource definitions of it, with
//! schemas from the same types that everything else reads ([`schema`]). [`connect`] opens the way to the API server, [`mirror`]
//! keeps a copy of what is there, [`lease`] says which of several replicas acts, and [`reviews`] asks whose a service
//! account's token is. [`agentic`] reads the kinds of kube-agentic-networking. Nothing here decides anything: what becomes of
//! objects is control's to say.

pub mod agentic;
pub mod connect;
pub mod definition;
pub mod kinds;
pub mod lease;
pub mod mirror;
pub mod reviews;
pub mod schema;
pub mod yaml;

pub use connect::{Cluster, ConnectError};
pub use kube;
pub use kube::api::DynamicObject;
