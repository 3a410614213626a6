//! Connections that the namespace's rules have redirected here: the agent means to speak to somebody else. What arrives
//! tells what becomes of it: TLS by the name in its hello, plain HTTP by its host, anything else only where policy allows
//! raw connections to that destination.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sideguard_capture::hello::{self, Hello, HelloError};
use sideguard_types::resource::{Ech, NoSni};
use tokio::io::AsyncWriteExt;

use super::front::{self, PATIENCE};
use super::wire::Wire;
use crate::app::Sidecar;
use crate::call::{Arrival, HostPort, Refused};
use crate::opening::{self, Kind};
use crate::tunnel::{self, Inside};

/// How long a client may be silent before the server may be meant to speak first.
const SILENCE: Duration = Duration::from_millis(250);
/// Ports whose servers speak first: waiting for the client would be in vain.
const SERVER_FIRST: [u16; 9] = [21, 22, 25, 110, 119, 143, 587, 3306, 5900];
/// A fatal TLS alert, `access_denied` (RFC 8446, section 6).
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Serves a connection that was going to `origin`.
pub(super) async fn serve(mut wire: Wire, mut arrival: Arrival, origin: SocketAddr, sidecar: Arc<Sidecar>) {
    let named = sidecar.nameserver.name(origin.ip());
    let host = named.clone().unwrap_or_else(|| origin.ip().to_canonical().to_string());
    let to = HostPort { host, port: origin.port() };
    // What refuses it as a raw connection, where it was tried as one.
    let mut silent: Option<Refused> = None;
    let first = if SERVER_FIRST.contains(&to.port) {
        None
    } else {
        tokio::time::timeout(SILENCE, kind(&mut wire)).await.ok()
    };
    let kind = match first {
        Some(Some(kind)) => kind,
        // It left without a word, as the loser of a race between two addresses does.
        Some(None) => return,
        None => match tunnel::redirected(&sidecar, &arrival, to.clone(), Inside::Raw).await {
            Ok(passage) => return carry(wire, Box::new(passage), &sidecar).await,
            Err(refused) if SERVER_FIRST.contains(&to.port) => return tunnel::turned_away(&sidecar, refused),
            Err(refused) => {
                silent = Some(refused);
                match tokio::time::timeout(PATIENCE, kind(&mut wire)).await {
                    Ok(Some(kind)) => kind,
                    // It was waiting for the server's word.
                    Ok(None) | Err(_) => Kind::Raw,
                }
            }
        },
    };
    match kind {
        Kind::Tls => tls(wire, arrival, to, named, sidecar).await,
        Kind::Http1 | Kind::Http2 => {
            // Without a name of its own, each request's host says where it leads.
            arrival.tunnel = named.map(|host| HostPort { host, port: to.port });
            front::serve(Box::new(wire), arrival, sidecar, kind == Kind::Http2).await;
        }
        Kind::Connect => {
            let why = "a proxy elsewhere would lead past this one";
            tunnel::turned_away(&sidecar, tunnel::unjudgeable(&sidecar, &arrival, to, "CONNECT", why));
        }
        Kind::Raw => match silent {
            Some(refused) => tunnel::turned_away(&sidecar, refused),
            None => match tunnel::redirected(&sidecar, &arrival, to, Inside::Raw).await {
                Ok(passage) => carry(wire, Box::new(passage), &sidecar).await,
                Err(refused) => tunnel::turned_away(&sidecar, refused),
            },
        },
    }
}

async fn tls(
    mut wire: Wire,
    mut arrival: Arrival,
    mut to: HostPort,
    named: Option<String>,
    sidecar: Arc<Sidecar>,
) {
    let refuse = |arrival: &Arrival, to: HostPort, why: String| {
        tunnel::turned_away(&sidecar, tunnel::unjudgeable(&sidecar, arrival, to, "TLS", why));
    };
    let asked = match hello(&mut wire).await {
        Ok(Some(hello)) => server(&sidecar, &hello, named.as_deref()),
        Ok(None) => Err("the connection ended before its TLS client hello did".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match asked {
        Ok(Some(name)) => to.host = name,
        // The name that the address was given for, or the address.
        Ok(None) => {}
        Err(why) => {
            refuse(&arrival, to, why);
            return alert(wire).await;
        }
    }
    if sidecar.opens(&to.host) {
        arrival.tunnel = Some(to);
        return front::open_tls(wire, arrival, sidecar).await;
    }
    match tunnel::redirected(&sidecar, &arrival, to, Inside::Closed).await {
        Ok(passage) => carry(wire, Box::new(passage), &sidecar).await,
        Err(refused) => {
            tunnel::turned_away(&sidecar, refused);
            alert(wire).await;
        }
    }
}

/// The name that a hello asks for, as far as it may be believed. `None` where it asks for none and need not.
fn server(sidecar: &Sidecar, hello: &Hello, named: Option<&str>) -> Result<Option<String>, String> {
    let rules = &sidecar.config.tls;
    let opened = hello.server_name.as_deref().or(named).is_some_and(|name| sidecar.opens(name));
    // Where TLS is opened, nothing can hide in there: a client that means it will not accept this end.
    if hello.encrypted && rules.ech == Ech::Refuse && !opened {
        return Err("the client hello is encrypted, so that its name cannot be judged (`tls.ech`)".to_owned());
    }
    match (&hello.server_name, named) {
        (None, _) if rules.no_sni == NoSni::Refuse => {
            Err("the TLS client names no server (`tls.noSni`)".to_owned())
        }
        (Some(asked), Some(named)) if asked != named => {
            Err(format!("SNI names `{asked}`, but the connection leads to `{named}`"))
        }
        (asked, _) => Ok(asked.clone()),
    }
}

/// Carries a tunnel whose content stays closed.
pub(super) async fn carry(wire: Wire, passage: Box<tunnel::Passage>, sidecar: &Arc<Sidecar>) {
    if let Ok((tcp, early)) = wire.into_parts().await {
        passage.carry(tcp, early, sidecar).await;
    }
}

/// Reads until the hello is there; `None` when the connection ends or stalls before.
async fn hello(wire: &mut Wire) -> Result<Option<Hello>, HelloError> {
    let read = async {
        loop {
            if let Some(hello) = hello::read(wire.at_hand())? {
                return Ok(Some(hello));
            }
            if matches!(wire.fetch().await, Ok(0) | Err(_)) {
                return Ok(None);
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or(Ok(None))
}

/// Tells a TLS client that it was turned away, in words that it shows.
async fn alert(mut wire: Wire) {
    if wire.write_all(&ACCESS_DENIED).await.is_ok() {
        // It may be gone by now.
        let _ = wire.shutdown().await;
    }
}

/// Tells what arrives, reading as little as that takes; `None` when the client ends without a word.
async fn kind(wire: &mut Wire) -> Option<Kind> {
    loop {
        if let Some(kind) = opening::kind(wire.at_hand()) {
            return Some(kind);
        }
        if matches!(wire.fetch().await, Ok(0) | Err(_)) {
            return (!wire.at_hand().is_empty()).then_some(Kind::Raw);
        }
    }
}
