//! The real servers that the shared store needs: started once for this program on free ports of the loopback, in
//! directories of their own, and ended with it, however it ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;

/// Both servers, shared by all cases that do not stop them.
pub static SERVERS: LazyLock<Servers> = LazyLock::new(Servers::start);

/// A running Redis and NATS.
pub struct Servers {
    /// Redis, with an append-only file that is synced always.
    pub redis: Server,
    /// NATS with JetStream, synced always.
    pub nats: Server,
}

impl Servers {
    /// Starts both.
    ///
    /// # Panics
    /// When one does not start.
    #[must_use]
    pub fn start() -> Self {
        Self { redis: Server::start(Kind::Redis), nats: Server::start(Kind::Nats) }
    }

    /// The URLs of Redis and NATS.
    #[must_use]
    pub fn urls(&self) -> (String, String) {
        (format!("redis://127.0.0.1:{}/0", self.redis.port), format!("nats://127.0.0.1:{}", self.nats.port))
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Redis,
    Nats,
}

impl Kind {
    fn command(self, port: u16, dir: &Path) -> (PathBuf, Vec<String>) {
        let dir = dir.display();
        match self {
            Self::Redis => {
                let options = format!(
                    "--port {port} --bind 127.0.0.1 --dir {dir} --appendonly yes --appendfsync always --save '' \
                     --daemonize no"
                );
                (
                    PathBuf::from("redis-server"),
                    options.split(' ').map(|word| word.replace("''", "")).collect(),
                )
            }
            Self::Nats => {
                let config = format!(
                    "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{dir}/data\", sync_interval: always }}\n"
                );
                let file = format!("{dir}/nats.conf");
                std::fs::write(&file, config).expect("a configuration");
                (nats_server(), vec!["-c".to_owned(), file])
            }
        }
    }

    fn ready(self) -> &'static str {
        match self {
            Self::Redis => "Ready to accept connections",
            Self::Nats => "Server is ready",
        }
    }
}

/// Where `tests/setup` puts the server.
fn nats_server() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installed = root.join("target/servers/python/bin/nats-server");
    assert!(installed.exists(), "`{}` is missing: run tests/setup", installed.display());
    installed
}

/// A directory that a later run removes when this program has ended: nothing is dropped at the end of a program.
struct ServerDir {
    path: PathBuf,
    _lock: File,
}

impl ServerDir {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/servers");
        std::fs::create_dir_all(&root).expect("a directory");
        let all = File::create(root.join("lock")).expect("a lock");
        all.lock().expect("a lock");
        for entry in std::fs::read_dir(&root).expect("a directory") {
            let path = entry.expect("an entry").path();
            let over = File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
            if over {
                std::fs::remove_dir_all(&path).expect("a removal");
            }
        }
        let name = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = root.join(name);
        std::fs::create_dir(&path).expect("a directory");
        let lock = File::create(path.join("lock")).expect("a lock");
        lock.lock().expect("a lock");
        Self { path, _lock: lock }
    }
}

/// A server that can be killed and started again on the same port and directory.
pub struct Server {
    kind: Kind,
    /// Its port of the loopback.
    pub port: u16,
    dir: ServerDir,
    child: parking_lot::Mutex<Option<Child>>,
}

impl Server {
    fn start(kind: Kind) -> Self {
        let dir = ServerDir::new();
        // Another program may take a free port before the server does: then another one is tried.
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("its address").port();
            drop(listener);
            if let Some(child) = run(kind, port, &dir.path) {
                return Self { kind, port, dir, child: parking_lot::Mutex::new(Some(child)) };
            }
        }
        panic!("{kind:?} does not start: run tests/setup");
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        let mut child = self.child.lock().take().expect("it runs");
        child.kill().expect("a kill");
        child.wait().expect("an end");
    }

    /// Halts it, or lets it go on, with its connections open.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        let child = self.child.lock();
        let id = child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("a signal");
        assert!(status.success());
    }

    /// Starts it again and returns when it takes connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&self) {
        let child = run(self.kind, self.port, &self.dir.path).expect("it starts again");
        *self.child.lock() = Some(child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a server and waits for its word; `None` when it ends instead.
fn run(kind: Kind, port: u16, dir: &Path) -> Option<Child> {
    let (program, options) = kind.command(port, dir);
    // The kernel kills the server when the thread that started it ends: that thread lives as long as this program.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(options);
    let mut child = keeper_spawn(command);
    let (said, heard) = mpsc::sync_channel(1);
    let ready = kind.ready();
    for output in outputs(&mut child) {
        let said = said.clone();
        // It goes on reading so that the server never waits for it.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains(ready) {
                    let _ = said.try_send(());
                }
            }
        });
    }
    drop(said);
    if heard.recv().is_ok() {
        return Some(child);
    }
    let _ = child.wait();
    None
}

fn outputs(child: &mut Child) -> [Box<dyn Read + Send>; 2] {
    [Box::new(child.stdout.take().expect("an output")), Box::new(child.stderr.take().expect("an output"))]
}

/// Starts `command` in a thread that never ends.
fn keeper_spawn(command: Command) -> Child {
    type Order = (Command, mpsc::SyncSender<Child>);
    static KEEPER: LazyLock<mpsc::SyncSender<Order>> = LazyLock::new(|| {
        let (orders, taken) = mpsc::sync_channel::<Order>(1);
        thread::spawn(move || {
            for (mut command, started) in taken {
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let child = command.spawn().expect("setpriv starts: run tests/setup");
                started.send(child).expect("somebody waits");
            }
        });
        orders
    });
    let (started, child) = mpsc::sync_channel(1);
    KEEPER.send((command, started)).expect("the keeper lives");
    child.recv().expect("the keeper lives")
}
