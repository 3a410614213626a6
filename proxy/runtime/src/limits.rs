//! What the kernel lets this process have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many open files as the kernel allows at most: each connection is one, and what is allowed at first is 1,024 on
/// many systems.
pub fn take_all_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
