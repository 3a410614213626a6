//! The rules of a network namespace, as an nft ruleset: everything goes to the sidecar or nowhere.
//!
//! [`Rules::text`] is a pure function of what is asked for; [`apply`], [`remove`] and [`counters`] run `nft`.

mod apply;

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use apply::{ApplyError, apply, counters, hold, remove};

use crate::address::Block;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "sideguard";
/// Kinds of packets that are dropped and counted, as the counters are named.
pub const DROPPED: [&str; 4] = ["quic", "udp", "icmp", "other"];
/// Put before them: some of the names are words of nft's.
const DROPPED_PREFIX: &str = "dropped_";

/// Which connections within the namespace are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loopback {
    /// All: nothing but the agent's own processes lives there.
    Any,
    /// Those to these ports: the namespace is shared, as a pod's is.
    Ports(Vec<u16>),
}

/// What the rules of a namespace are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Port on loopback that takes redirected connections.
    pub outbound: u16,
    /// Port on loopback that answers DNS, over UDP and TCP.
    pub dns: u16,
    /// Uids whose traffic is left alone: the sidecar's, where it lives in the same namespace, and a mesh's.
    pub exempt_uids: Vec<u32>,
    /// TCP ports that are left alone, at every address.
    pub exempt_ports: Vec<u16>,
    /// Addresses that are left alone.
    pub exempt_blocks: Vec<Block>,
    /// Connections within the namespace.
    pub loopback: Loopback,
    /// Ports of 127.0.0.1 that are redirected as if they were outside.
    pub captured_ports: Vec<u16>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            outbound: 4750,
            dns: 4753,
            exempt_uids: Vec::new(),
            exempt_ports: Vec::new(),
            exempt_blocks: Vec::new(),
            loopback: Loopback::Ports(Vec::new()),
            captured_ports: Vec::new(),
        }
    }
}

impl Rules {
    /// The ruleset: one transaction, which replaces what an earlier one made.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
        for name in DROPPED {
            text.push_str(&format!("  counter {DROPPED_PREFIX}{name} {{\n  }}\n"));
        }
        text.push_str("  chain redirect_out {\n    type nat hook output priority -101; policy accept;\n");
        self.redirect(&mut text);
        text.push_str("  }\n  chain lock_out {\n    type filter hook output priority 0; policy drop;\n");
        self.lock(&mut text);
        text.push_str(
            "  }\n  chain stay_in {\n    type filter hook postrouting priority 0; policy accept;\n",
        );
        // A socket bound to an interface would take even what was redirected out there.
        for address in ["ip daddr 127.0.0.0/8", "ip6 daddr ::1"] {
            line(&mut text, &format!("oifname != \"lo\" {address} counter name dropped_other drop"));
        }
        text.push_str("  }\n}\n");
        text
    }

    fn redirect(&self, text: &mut String) {
        let (outbound, dns) = (self.outbound, self.dns);
        self.exempt(text, "return");
        line(text, &format!("meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns}"));
        if !self.captured_ports.is_empty() {
            let ports = set(&self.captured_ports);
            for address in ["ip daddr 127.0.0.1", "ip6 daddr ::1"] {
                line(text, &format!("{address} tcp dport {ports} redirect to :{outbound}"));
            }
        }
        line(text, "fib daddr type local return");
        line(text, &format!("meta l4proto tcp redirect to :{outbound}"));
    }

    /// What comes here has been redirected already, so it goes to loopback.
    fn lock(&self, text: &mut String) {
        let (outbound, dns) = (self.outbound, self.dns);
        self.exempt(text, "accept");
        // Not UDP: one datagram from outside would open a way back.
        line(text, "meta l4proto tcp ct state established accept");
        line(text, "ct state related meta l4proto { icmp, icmpv6 } accept");
        for address in ["ip daddr 127.0.0.1", "ip6 daddr ::1"] {
            line(text, &format!("{address} tcp dport {{ {outbound}, {dns} }} accept"));
            line(text, &format!("{address} udp dport {dns} accept"));
        }
        match &self.loopback {
            Loopback::Any => line(text, "fib daddr type local accept"),
            Loopback::Ports(ports) if !ports.is_empty() => {
                line(text, &format!("fib daddr type local tcp dport {} accept", set(ports)));
            }
            Loopback::Ports(_) => {}
        }
        // Not multicast reports: whoever joins a group chooses its address.
        line(text, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept");
        line(text, "udp dport 443 counter name dropped_quic reject with icmpx type port-unreachable");
        line(text, "meta l4proto udp counter name dropped_udp reject with icmpx type port-unreachable");
        line(
            text,
            "meta l4proto { icmp, icmpv6 } counter name dropped_icmp reject with icmpx type admin-prohibited",
        );
        line(text, "meta l4proto tcp counter name dropped_other reject with tcp reset");
        line(text, "counter name dropped_other reject with icmpx type admin-prohibited");
    }

    fn exempt(&self, text: &mut String, verdict: &str) {
        if !self.exempt_uids.is_empty() {
            line(text, &format!("meta skuid {} {verdict}", set(&self.exempt_uids)));
        }
        if !self.exempt_ports.is_empty() {
            line(text, &format!("tcp dport {} {verdict}", set(&self.exempt_ports)));
        }
        for block in &self.exempt_blocks {
            let family = if block.is_ipv4() { "ip" } else { "ip6" };
            line(text, &format!("{family} daddr {block} {verdict}"));
        }
    }
}

fn line(text: &mut String, rule: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "    {rule}");
}

fn set<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", items.join(", "))
}

/// Addresses to try connections to: nobody's (RFC 5737, RFC 3849), so that whoever answers is the namespace itself.
const NOBODY: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe)), 9),
];

#[cfg(test)]
mod tests {
    use super::{Loopback, Rules};
    use crate::address::Block;

    #[test]
    fn the_rules_of_a_pod() {
        let rules = Rules { exempt_uids: vec![14102], ..Rules::default() };
        insta::assert_snapshot!(rules.text());
    }

    #[test]
    fn the_rules_of_a_namespace_of_its_own() {
        let rules = Rules { loopback: Loopback::Any, captured_ports: vec![11434, 8000], ..Rules::default() };
        insta::assert_snapshot!(rules.text());
    }

    #[test]
    fn everything_that_can_be_left_alone() {
        let block = |text| Block::parse(text).expect("a block");
        let rules = Rules {
            outbound: 15001,
            dns: 15053,
            exempt_uids: vec![14102, 1337],
            exempt_ports: vec![5432, 6379],
            exempt_blocks: vec![block("10.96.0.0/12"), block("fd00:1::/32")],
            loopback: Loopback::Ports(vec![8080]),
            captured_ports: Vec::new(),
        };
        insta::assert_snapshot!(rules.text());
    }
}
