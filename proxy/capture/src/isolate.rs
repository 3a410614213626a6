//! A command in namespaces of its own, whose only way out is the sidecar.
//!
//! Three processes take part. The sidecar starts [`outer`], which leaves for a new user, network and mount namespace,
//! sets rules and routes, opens the sidecar's ports inside and hands them back, and then arranges what the command may see
//! of the file system. It starts [`inner`] as the first process of a new PID namespace, which gives up every privilege
//! and starts the command. When one of the three ends, those below it end too.
//!
//! No root is needed where the kernel lets users have namespaces. Root needs no user namespace; its command runs as
//! another user, or as a root without capabilities.

mod channel;
mod inner;
mod network;
mod outer;
mod sockets;
mod view;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelError, Inside};
pub use inner::inner;
pub use outer::{Outer, outer};
pub use sockets::listening;

/// The user whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// What the network is to be: the first message to [`outer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Port of the sidecar inside.
    pub outbound: u16,
    /// Port of its name server inside.
    pub dns: u16,
    /// Ports of 127.0.0.1 that lead to the host's, through the sidecar.
    pub local: Vec<u16>,
}

/// What the command is and may see: the second message to [`outer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whom it runs as; as whoever runs the sidecar when absent.
    pub user: Option<User>,
    /// Directories that are hidden, without links in their paths: the sidecar's state. At least one.
    pub hidden: Vec<PathBuf>,
    /// Directory below `/run` in which the sidecar's authority and the bundle show, as `ca.crt` and `bundle.pem`.
    pub trust: PathBuf,
    /// Certificate of the sidecar's authority (PEM).
    pub authority: String,
    /// The system's roots and that one (PEM): stands where programs look for the system's as well.
    pub bundle: String,
    /// The same for Java, in its own format.
    pub java: Vec<u8>,
    /// Files in which Java looks for it.
    pub java_stores: Vec<PathBuf>,
    /// Sockets of the host's programs, which are covered.
    pub sockets: Vec<PathBuf>,
}

/// Why a command cannot be isolated here.
#[derive(Debug, thiserror::Error)]
pub enum IsolateError {
    /// A system call failed.
    #[error("cannot {doing}: {why}{}", hint(.doing, *.why))]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        why: rustix::io::Errno,
    },
    /// A file cannot be used.
    #[error("cannot {doing} `{}`: {why}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        why: std::io::Error,
    },
    /// The network cannot be set up.
    #[error("cannot {doing}: {why}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        why: std::io::Error,
    },
    /// The rules cannot be put in place.
    #[error(transparent)]
    Rules(#[from] crate::rules::ApplyError),
    /// The sidecar is gone.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The system call filter cannot be made.
    #[error("cannot filter system calls: {0}")]
    Filter(String),
}

/// How to mend what often fails.
fn hint(doing: &str, why: rustix::io::Errno) -> &'static str {
    use rustix::io::Errno;
    match (doing, why) {
        (NAMESPACES, Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::INVAL) => {
            " (this kernel or container does not let users have namespaces: see `sysctl kernel.unprivileged_userns_clone \
             kernel.apparmor_restrict_unprivileged_userns user.max_user_namespaces`, or run as root)"
        }
        (PROC, Errno::PERM) => " (a container that masks /proc does not let it be mounted anew)",
        _ => "",
    }
}

const NAMESPACES: &str = "make namespaces";
const PROC: &str = "mount /proc";

/// Puts a name to what failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, IsolateError>;
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, IsolateError> {
        self.map_err(|why| IsolateError::System { doing, why })
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, IsolateError> {
        self.map_err(|why| IsolateError::Io { doing, why })
    }
}
