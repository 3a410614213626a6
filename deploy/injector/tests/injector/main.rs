//! What becomes of pods, reviews and manifests.

mod common;
mod golden;
mod hostile;
mod manifests;
mod properties;
