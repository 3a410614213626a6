//! The name server of a captured namespace: answers over UDP and TCP, and puts what is asked on record within bounds.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sideguard_capture::dns::{self, Answer, Names, Question};
use sideguard_runtime::{clock, tasks};
use sideguard_types::audit::{Phase, Record, Target};
use sideguard_types::call::{Caller, Point};
use sideguard_types::refusal::Code;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::app::Sidecar;

/// Questions that go on record one by one in each period; the others are counted.
const RECORDED: usize = 200;
const PERIOD: Duration = Duration::from_secs(60);
/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Longest silence on a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the name server remembers.
#[derive(Debug, Default)]
pub(crate) struct NameServer {
    names: Mutex<Names>,
    log: Mutex<QueryLog>,
}

/// The questions of the present period.
#[derive(Debug, Default)]
struct QueryLog {
    since: Option<Timestamp>,
    seen: HashSet<(Question, bool)>,
    /// Questions beyond those, and how many of them were refused.
    more: [u64; 2],
}

impl NameServer {
    /// The name that a synthetic address was given for.
    pub(crate) fn name(&self, address: IpAddr) -> Option<String> {
        self.names.lock().name(address).map(str::to_owned)
    }

    fn answer(&self, sidecar: &Sidecar, question: &Question) -> Answer {
        // RFC 6761, section 6.3; and what programs ask to learn of themselves.
        let own = rustix::system::uname();
        if question.name == "localhost"
            || question.name.ends_with(".localhost")
            || own.nodename().to_str().is_ok_and(|own| own.eq_ignore_ascii_case(&question.name))
        {
            return Answer::Addresses(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        }
        let policy = sidecar.policy.load();
        let nobody = Caller { tenant: "default".to_owned(), ..Caller::default() };
        // One name server serves all agents of a namespace: a name that one of them may reach is no secret to the others.
        let agents = sidecar.agents();
        let caller = if let [only] = agents.as_slice() { *only } else { &nobody };
        let may = |agent: &Caller| policy.set.may_reach(agent, &question.name);
        let known = if agents.is_empty() { may(&nobody) } else { agents.iter().any(|agent| may(agent)) };
        let answer = if known {
            let addresses = self.names.lock().addresses(&question.name);
            addresses.map_or(Answer::Full, |(v4, v6)| Answer::Addresses(v4, v6))
        } else {
            Answer::NoName
        };
        self.note(sidecar, caller, question, known);
        answer
    }

    /// Puts a question on record when it is new in this period and there is room; otherwise counts it.
    fn note(&self, sidecar: &Sidecar, caller: &Caller, question: &Question, known: bool) {
        self.close(sidecar, false);
        {
            let mut log = self.log.lock();
            log.since.get_or_insert_with(clock::now);
            let key = (question.clone(), known);
            let again = log.seen.contains(&key);
            if again || log.seen.len() >= RECORDED {
                let [all, refused] = &mut log.more;
                *all = all.saturating_add(1);
                *refused = refused.saturating_add(u64::from(!known));
                return;
            }
            log.seen.insert(key);
        }
        let mut record = Record::new(Phase::Decision, clock::now());
        record.tenant.clone_from(&caller.tenant);
        record.agent.clone_from(&caller.agent);
        record.chain.clone_from(&caller.chain);
        record.point = Some(Point::NetConnect);
        record.topic = format!("net.{}.resolve", question.name);
        record.target = Target {
            host: question.name.clone(),
            method: format!("DNS {}", question.kind),
            ..Target::default()
        };
        record.policy_digest = sidecar.policy.load().set.digest().to_string();
        "dns".clone_into(&mut record.rule);
        if known {
            record.decision = Some(Decision::Allow);
        } else {
            record.decision = Some(Decision::Deny);
            record.code = Some(Code::PolicyDenied.as_str().to_owned());
            "no rule lets any call to this name through".clone_into(&mut record.reason);
        }
        sidecar.note(&record);
    }

    /// Ends the period when its time is over, or in any case: what was only counted goes on record as a sum.
    pub(crate) fn close(&self, sidecar: &Sidecar, now: bool) {
        let more = {
            let mut log = self.log.lock();
            let over = log.since.is_some_and(|since| since.plus(PERIOD) <= clock::now());
            if !over && !now {
                return;
            }
            std::mem::take(&mut *log).more
        };
        let [all, refused] = more;
        if all > 0 {
            let mut record = Record::new(Phase::Control, clock::now());
            record.code = Some("dns_queries".to_owned());
            record.reason = format!(
                "{all} more or repeated questions, {refused} of them for names that do not exist here"
            );
            sidecar.note(&record);
        }
    }
}

/// Answers over UDP until the task is dropped.
pub(crate) async fn serve_udp(socket: UdpSocket, sidecar: Arc<Sidecar>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else {
            // Word of an earlier reply that found nobody.
            continue;
        };
        let message = buffer.get(..count).unwrap_or_default();
        if let Some(reply) = answer(&sidecar, message) {
            // It may have gone by now.
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// Answers over TCP until the task is dropped.
pub(crate) async fn serve_tcp(listener: TcpListener, sidecar: Arc<Sidecar>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let sidecar = Arc::clone(&sidecar);
        tasks::spawn("dns-connection", async move {
            // Whoever breaks off gets nothing more.
            let _ = converse(stream, &sidecar).await;
            drop(place);
        });
    }
}

/// Messages with their length before them (RFC 1035, section 4.2.2).
async fn converse(mut stream: TcpStream, sidecar: &Sidecar) -> std::io::Result<()> {
    loop {
        let message = tokio::time::timeout(PATIENCE, async {
            let length = usize::from(stream.read_u16().await?);
            let mut message = vec![0; length.min(4096)];
            stream.read_exact(&mut message).await?;
            Ok::<_, std::io::Error>(message)
        });
        let message = message.await.map_err(std::io::Error::other)??;
        let Some(reply) = answer(sidecar, &message) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()).await?;
    }
}

fn answer(sidecar: &Sidecar, message: &[u8]) -> Option<Vec<u8>> {
    dns::reply(message, |question| sidecar.nameserver.answer(sidecar, question))
}
