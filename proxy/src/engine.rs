//! The HTTP engine: pingora-core's HTTP/1 and HTTP/2 on both sides, its TLS and its upstream pool. The only module
//! that names pingora; the stages see [`Down`], the agent's side of one exchange, and [`Up`], the other side.
//!
//! What is judged is read whole before anything is sent, so the relay here is a plain sequence (read, send, read,
//! send) and not pingora-proxy's duplex; its hooks and their limits (replay of bodies, ending a stream) do not arise.

mod cork;
mod down;
mod fault;
mod front;
mod redirected;
mod up;
mod wire;

pub(crate) use down::{BodyFault, Down, Gone, Length, Reply};
pub(crate) use fault::io_words;
pub(crate) use front::accept;
pub(crate) use up::{Connector, Destination, Fault, Head, Outgoing, Trust, Up};
