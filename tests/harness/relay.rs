//! Something that stands between a sidecar and control: a load balancer, a cut line, a proxy that buffers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sideguard_runtime::tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What it does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Passes it on.
    Whole,
    /// Takes connections and passes nothing, as a line does that was cut somewhere beyond.
    Silent,
    /// Refuses connections and ends those that are.
    Cut,
    /// Keeps answers that have no length, until they end.
    Buffering,
}

/// A relay on loopback.
pub struct Relay {
    at: SocketAddr,
    to: Arc<Mutex<Vec<String>>>,
    line: watch::Sender<Line>,
    _task: tasks::Owned,
}

impl Relay {
    /// Starts one to the services at these URLs, which take turns; one that takes no connection is passed over.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(urls: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("its address");
        let to = urls.iter().map(|url| url.trim_start_matches("http://").to_owned()).collect();
        let to = Arc::new(Mutex::new(to));
        let line = watch::Sender::new(Line::Whole);
        let task = tasks::spawn("relay", accept(listener, Arc::clone(&to), line.subscribe()));
        Self { at, to, line, _task: tasks::Owned::new(&task) }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Starts one to one service.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(url: &str) -> Self {
        Self::start(&[url]).await
    }

    /// Breaks all connections; new ones break at once.
    pub fn cut(&self) {
        self.set(Line::Cut);
    }

    /// Lets connections pass again.
    pub fn mend(&self) {
        self.set(Line::Whole);
    }

    /// Changes what it does; connections that are there change as well, but for buffering.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Changes where it leads to, for new connections.
    pub fn lead(&self, urls: &[&str]) {
        *self.to.lock() = urls.iter().map(|url| url.trim_start_matches("http://").to_owned()).collect();
    }
}

async fn accept(listener: TcpListener, to: Arc<Mutex<Vec<String>>>, line: watch::Receiver<Line>) {
    let turn = AtomicUsize::new(0);
    loop {
        let Ok((tcp, _)) = listener.accept().await else { return };
        if *line.borrow() == Line::Cut {
            continue;
        }
        let mut places = to.lock().clone();
        let first = turn.fetch_add(1, Ordering::Relaxed) % places.len().max(1);
        places.rotate_left(first);
        tasks::spawn_plain(relay(tcp, places, line.clone()));
    }
}

async fn relay(mut from: TcpStream, places: Vec<String>, mut line: watch::Receiver<Line>) {
    let mut to = None;
    for place in &places {
        if let Ok(tcp) = TcpStream::connect(place).await {
            to = Some(tcp);
            break;
        }
    }
    let Some(mut to) = to else { return };
    let (mut there, mut back) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut kept: Option<Vec<u8>> = None;
    loop {
        let now = *line.borrow_and_update();
        match now {
            Line::Cut => return,
            Line::Silent => {
                if line.changed().await.is_err() {
                    return;
                }
            }
            Line::Whole | Line::Buffering => tokio::select! {
                changed = line.changed() => if changed.is_err() { return },
                read = from.read(&mut there) => match read {
                    Ok(count) if count > 0 && to.write_all(&there[..count]).await.is_ok() => {}
                    _ => return,
                },
                read = to.read(&mut back) => match read {
                    Ok(count) if count > 0 => {
                        let bytes = &back[..count];
                        let endless = now == Line::Buffering
                            && bytes.windows(17).any(|part| part == b"text/event-stream");
                        if endless && kept.is_none() {
                            kept = Some(Vec::new());
                        }
                        match &mut kept {
                            Some(kept) => kept.extend_from_slice(bytes),
                            None => if from.write_all(bytes).await.is_err() { return },
                        }
                    }
                    _ => {
                        if let Some(kept) = kept {
                            let _ = from.write_all(&kept).await;
                        }
                        return;
                    }
                },
            },
        }
    }
}
