//! A relay of TCP connections that a test can cut and mend: a partition between two processes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay to one address.
pub struct Relay {
    address: SocketAddr,
    cut: Arc<watch::Sender<bool>>,
    // Ends with the relay.
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Opens a port that leads to `url`, such as `http://127.0.0.1:4760`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn to(url: &str) -> Self {
        let to = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cut = Arc::new(watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, to, Arc::clone(&cut)));
        Self { address, cut, _tasks: tasks }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections; new ones break at once.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets connections pass again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn accept(listener: TcpListener, to: String, cut: Arc<watch::Sender<bool>>) {
    let mut open = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        let (to, mut cut) = (to.clone(), cut.subscribe());
        open.spawn(async move {
            if *cut.borrow() {
                return;
            }
            let Ok(mut onward) = TcpStream::connect(to).await else { return };
            tokio::select! {
                // However it ends, both sides see it.
                _ = tokio::io::copy_bidirectional(&mut from, &mut onward) => {}
                _ = cut.wait_for(|cut| *cut) => {}
            }
        });
        while open.try_join_next().is_some() {}
    }
}
