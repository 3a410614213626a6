//! What is measured: the model by itself, and each proxy in front of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::ClientConfig;

use crate::certificates::{self, Certificates, HOST};
use crate::clock::{self, SECOND};
use crate::load::Door;
use crate::model::{self, Case};
use crate::process::Process;
use crate::sideguard::Installation;

/// Core of the proxy under measurement.
pub(crate) const PROXY_CORE: usize = 0;
/// Core of the stand-in model and the load generator.
pub(crate) const LOAD_CORE: usize = 1;

/// What stands between the agent and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nothing.
    Direct,
    /// The bare hyper pass-through.
    Hyper,
    /// The bare pingora pass-through.
    Pingora,
    /// Envoy with rate limit and RBAC.
    Envoy,
    /// Sideguard with everything on.
    Sideguard,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Direct, Self::Hyper, Self::Pingora, Self::Envoy, Self::Sideguard];

    /// Its name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hyper => "hyper",
            Self::Pingora => "pingora",
            Self::Envoy => "envoy",
            Self::Sideguard => "sideguard",
        }
    }
}

/// Where the run takes place, and the model that it starts there.
pub(crate) struct Site {
    directory: PathBuf,
    certificates: Certificates,
    own_program: PathBuf,
    programs: Programs,
    plain: SocketAddr,
    tls: SocketAddr,
    _model: Process,
}

/// A started target.
pub(crate) struct Target {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its process; none for [`Kind::Direct`].
    pub(crate) process: Option<Process>,
    /// Milliseconds from its start until it could be used.
    pub(crate) ready_ms: f64,
    plain: Door,
    tls: Door,
}

/// The programs that are measured.
pub(crate) struct Programs {
    /// Envoy's binary.
    pub(crate) envoy: Option<PathBuf>,
    /// Sideguard's binary.
    pub(crate) sideguard: Option<PathBuf>,
    /// The policy engine's example `decide_speed`.
    pub(crate) decide_speed: Option<PathBuf>,
}

impl Site {
    /// Makes certificates in `directory` and starts the model.
    pub(crate) fn open(directory: PathBuf, programs: Programs) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        let directory = directory.canonicalize()?;
        let certificates = Certificates::make(&directory)?;
        let own_program = std::env::current_exe()?;
        let [plain, tls] = free_addresses()?;
        let mut command = Command::new(&own_program);
        command.arg("upstream").args(listen(plain, tls)).arg("--certificates").arg(&directory);
        let log = directory.join("upstream.log");
        let mut model = Process::start(command, LOAD_CORE, &log)?;
        wait(&mut model, || TcpStream::connect(plain).ok().map(drop)).context("the stand-in model")?;
        Ok(Self { directory, certificates, own_program, programs, plain, tls, _model: model })
    }

    /// Starts a target and waits until it can be used. Sideguard starts without any state, as on its first day.
    pub(crate) fn start(&self, kind: Kind) -> Result<Target> {
        match kind {
            Kind::Direct => Ok(Target {
                kind,
                process: None,
                ready_ms: 0.0,
                plain: Door::Plain(self.plain),
                tls: Door::Tls(self.tls, self.trust(self.certificates.root())?),
            }),
            Kind::Hyper => self.start_bare(kind, "pass-hyper"),
            Kind::Pingora if cfg!(feature = "pingora") => self.start_bare(kind, "pass-pingora"),
            Kind::Pingora => bail!("built without the feature `pingora`"),
            Kind::Envoy => self.start_envoy(),
            Kind::Sideguard => self.start_sideguard(),
        }
    }

    /// Work of the lowest class on both cores, which yields to all else, as long as it is held.
    pub(crate) fn keep_awake(&self) -> Result<Vec<Process>> {
        let spin = |core: usize| {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(&self.own_program).arg("spin");
            Process::start(command, core, &self.directory.join("spin.log"))
        };
        [PROXY_CORE, LOAD_CORE].map(spin).into_iter().collect()
    }

    fn start_bare(&self, kind: Kind, role: &str) -> Result<Target> {
        let [plain, tls] = free_addresses()?;
        let mut command = Command::new(&self.own_program);
        command.arg(role).args(listen(plain, tls)).arg("--certificates").arg(&self.directory);
        command.args(["--upstream", &self.plain.to_string(), "--upstream-tls", &self.tls.to_string()]);
        let (process, ready_ms) = self.measure_start(kind, command, || connects(plain))?;
        let trust = self.trust(self.certificates.root())?;
        let tls = match kind {
            Kind::Hyper => Door::Connect(plain, trust),
            _ => Door::Tls(tls, trust),
        };
        Ok(Target { kind, process: Some(process), ready_ms, plain: Door::Plain(plain), tls })
    }

    fn start_envoy(&self) -> Result<Target> {
        let program = self.programs.envoy.as_ref().context("no Envoy: give its binary with `--envoy`")?;
        let [plain, tls] = free_addresses()?;
        let file = |path: PathBuf| path.display().to_string();
        let config = include_str!("../envoy.yaml")
            .replace("UPSTREAM_TLS_PORT", &self.tls.port().to_string())
            .replace("UPSTREAM_PORT", &self.plain.port().to_string())
            .replace("PLAIN_PORT", &plain.port().to_string())
            .replace("TLS_PORT", &tls.port().to_string())
            .replace("CHAIN_FILE", &file(self.certificates.chain()))
            .replace("KEY_FILE", &file(self.certificates.key()))
            .replace("ROOT_FILE", &file(self.certificates.root()))
            .replace("HOST_NAME", HOST);
        let path = self.directory.join("envoy.yaml");
        fs::write(&path, config)?;
        let mut command = Command::new(program);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "--config-path",
        ]);
        command.arg(path);
        let (process, ready_ms) = self.measure_start(Kind::Envoy, command, || connects(plain))?;
        let tls = Door::Tls(tls, self.trust(self.certificates.root())?);
        Ok(Target { kind: Kind::Envoy, process: Some(process), ready_ms, plain: Door::Plain(plain), tls })
    }

    fn start_sideguard(&self) -> Result<Target> {
        let program =
            self.programs.sideguard.as_ref().context("no Sideguard: give its binary with `--sideguard`")?;
        let installation = Installation::write(
            &self.directory.join("sideguard"),
            self.plain,
            self.tls,
            &self.certificates.root(),
        )?;
        installation.forget_ports()?;
        let mut command = Command::new(program);
        command.args(["proxy", "-c"]).arg(installation.config());
        let (process, ready_ms) =
            self.measure_start(Kind::Sideguard, command, || installation.outbound().map(drop))?;
        let outbound = installation.outbound().context("`ports.json` is gone")?;
        let tls = Door::Connect(outbound, self.trust(installation.authority())?);
        Ok(Target {
            kind: Kind::Sideguard,
            process: Some(process),
            ready_ms,
            plain: Door::Plain(outbound),
            tls,
        })
    }

    /// Starts a process on the proxies' core; it and the milliseconds until `ready` says that it is.
    fn measure_start(
        &self,
        kind: Kind,
        command: Command,
        ready: impl Fn() -> Option<()>,
    ) -> Result<(Process, f64)> {
        let log = self.directory.join(format!("{}.log", kind.name()));
        let program = command.get_program().to_owned();
        let start = clock::now();
        let mut process = Process::start(command, PROXY_CORE, &log)?;
        wait(&mut process, ready).with_context(|| {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().next_back().unwrap_or("its log is empty").to_owned();
            format!("`{}` did not start ({last})", program.display())
        })?;
        Ok((process, (clock::now() - start) as f64 / 1e6))
    }

    fn trust(&self, root: PathBuf) -> Result<Arc<ClientConfig>> {
        certificates::client(&[root])
    }
}

impl Target {
    /// How the requests of a case reach it.
    pub(crate) const fn door(&self, case: Case) -> &Door {
        match case {
            Case::Chat1k | Case::Chat32k | Case::Stream => &self.plain,
            Case::Connect => &self.tls,
        }
    }

    /// The request of a case, as it is sent to this target.
    pub(crate) fn request(&self, case: Case) -> Arc<[u8]> {
        let by_gateway_path = self.kind == Kind::Sideguard && case != Case::Connect;
        let prefix = if by_gateway_path { "/openai" } else { "" };
        let host = match self.door(case) {
            Door::Plain(address) => address.to_string(),
            Door::Tls(..) | Door::Connect(..) => HOST.to_owned(),
        };
        let (path, body) = (model::PATH, case.body());
        format!(
            "POST {prefix}{path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: sideguard-bench\r\naccept: */*\r\n\
             authorization: Bearer sk-bench-not-a-key\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
        .into()
    }
}

fn listen(plain: SocketAddr, tls: SocketAddr) -> [String; 4] {
    ["--plain".to_owned(), plain.to_string(), "--tls".to_owned(), tls.to_string()]
}

fn connects(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).ok().map(drop)
}

/// Addresses on loopback that were free just now.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<_> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let addresses: Vec<_> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().ok().context("too few addresses")
}

/// Waits until `ready`, looking five times in a millisecond.
fn wait(process: &mut Process, ready: impl Fn() -> Option<()>) -> Result<()> {
    let end = clock::now() + 15 * SECOND;
    while ready().is_none() {
        if !process.runs() {
            bail!("it ended at once");
        }
        if clock::now() > end {
            bail!("it was not ready within 15 s");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
