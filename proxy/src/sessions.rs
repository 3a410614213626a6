//! MCP sessions that servers opened through this sidecar, and agents that ran away.

use std::collections::HashMap;

use parking_lot::Mutex;
use sideguard_types::time::Timestamp;

use crate::call::{HostPort, Route};

/// Sessions remembered at once.
const SESSIONS: u64 = 10_000;

/// Sessions by server, path and id.
#[derive(Debug)]
pub(crate) struct McpSessions {
    known: moka::sync::Cache<(HostPort, String, Vec<u8>), ()>,
}

impl Default for McpSessions {
    fn default() -> Self {
        Self { known: moka::sync::Cache::new(SESSIONS) }
    }
}

impl McpSessions {
    /// A server named this session in an answer.
    pub(crate) fn remember(&self, route: &Route, session: &[u8]) {
        if session.len() <= 512 {
            self.known.insert((route.to.clone(), route.path().to_owned(), session.to_vec()), ());
        }
    }

    /// Whether the server at this very path opened it.
    pub(crate) fn knows(&self, route: &Route, session: &[u8]) -> bool {
        self.known.contains_key(&(route.to.clone(), route.path().to_owned(), session.to_vec()))
    }
}

/// Agents whose calls are held back because they ran away.
#[derive(Debug, Default)]
pub(crate) struct Runaways {
    until: Mutex<HashMap<String, Timestamp>>,
}

impl Runaways {
    /// Holds an agent's calls back.
    pub(crate) fn hold_back(&self, agent: &str, until: Timestamp) {
        self.until.lock().insert(agent.to_owned(), until);
    }

    /// Until when an agent's calls are held back, if they are.
    pub(crate) fn held_back(&self, agent: &str, now: Timestamp) -> Option<Timestamp> {
        let mut held = self.until.lock();
        if held.is_empty() {
            return None;
        }
        held.retain(|_, until| *until > now);
        held.get(agent).copied()
    }

    /// All of them.
    pub(crate) fn all(&self, now: Timestamp) -> Vec<(String, Timestamp)> {
        self.until
            .lock()
            .iter()
            .filter(|(_, until)| **until > now)
            .map(|(agent, until)| (agent.clone(), *until))
            .collect()
    }
}
