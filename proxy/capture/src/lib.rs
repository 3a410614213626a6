//! How traffic gets to the proxy: the rules of a network namespace ([`rules`]), a command in namespaces of its own
//! ([`isolate`]), where a redirected connection wanted to go and whose it is ([`origin`], [`hello`]), the namespace's
//! name server ([`dns`]), which addresses may be reached ([`address`]), and the authority that lets the proxy open
//! intercepted TLS ([`ca`], [`java`]).
//!
//! Nothing here accepts a connection, dials, or decides what is let through.

pub mod address;
pub mod ca;
pub mod dns;
pub mod hello;
pub mod isolate;
pub mod java;
pub mod origin;
pub mod rules;
