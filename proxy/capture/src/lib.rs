//! How traffic gets to the proxy: the authority that lets it open intercepted TLS.
//!
//! Nothing here listens, connects or decides what is intercepted. Start at [`ca::Authority`].

pub mod ca;
