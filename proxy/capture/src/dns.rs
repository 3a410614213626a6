//! The namespace's name server: names that policy may ever allow get an address of their own, all others do not exist.
//!
//! No query is passed on, so nothing can be carried out over DNS. The addresses are synthetic; a connection to one tells
//! the name that it was given for, whatever protocol it speaks. Real addresses are looked up by the sidecar, when a
//! call to that name has been allowed.

mod names;

use std::net::{Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

pub use names::Names;

/// How long clients may use an address, in seconds.
const LIFE: u32 = 60;
/// Longest reply over UDP to a client that does not say more (RFC 1035, section 4.2.1). Ours are never longer.
const UDP_MOST: usize = 512;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, lower case, without a dot at its end.
    pub name: String,
    /// What is asked for, as `dig` names it: `A`, `AAAA`, `TXT`, `TYPE65`.
    pub kind: String,
}

/// The answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The name has these addresses.
    Addresses(Ipv4Addr, Ipv6Addr),
    /// There is no such name (NXDOMAIN).
    NoName,
    /// All addresses are taken (SERVFAIL).
    Full,
}

/// Answers one message. `name` is asked about names that are well formed, and its question is what goes on record.
/// `None` where nothing should be said: replies and bytes that are no DNS.
pub fn reply(message: &[u8], mut name: impl FnMut(&Question) -> Answer) -> Option<Vec<u8>> {
    let query = Packet::parse(message).ok()?;
    if query.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let mut reply = Packet::new_reply(query.id());
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    *reply.opcode_mut() = query.opcode();
    let [question] = query.questions.as_slice() else {
        return refuse(reply, RCODE::FormatError);
    };
    reply.questions.push(question.clone());
    if query.opcode() != OPCODE::StandardQuery {
        return refuse(reply, RCODE::NotImplemented);
    }
    let Some(asked) = host(&question.qname.to_string()) else { return refuse(reply, RCODE::NameError) };
    let kind = match question.qtype {
        QTYPE::TYPE(TYPE::A) => "A".to_owned(),
        QTYPE::TYPE(TYPE::AAAA) => "AAAA".to_owned(),
        QTYPE::TYPE(kind) => format!("{kind:?}").to_ascii_uppercase(),
        QTYPE::ANY => "ANY".to_owned(),
        QTYPE::IXFR | QTYPE::AXFR | QTYPE::MAILB | QTYPE::MAILA => return refuse(reply, RCODE::Refused),
    };
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return refuse(reply, RCODE::Refused);
    }
    match name(&Question { name: asked, kind: kind.clone() }) {
        Answer::NoName => return refuse(reply, RCODE::NameError),
        Answer::Full => return refuse(reply, RCODE::ServerFailure),
        Answer::Addresses(v4, v6) => {
            let mut add = |data| {
                let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, LIFE, data);
                reply.answers.push(record);
            };
            // Any other kind (HTTPS records with keys for ECH, TXT) exists for no name.
            if matches!(kind.as_str(), "A" | "ANY") {
                add(RData::A(A { address: u32::from(v4) }));
            }
            if matches!(kind.as_str(), "AAAA" | "ANY") {
                add(RData::AAAA(AAAA { address: u128::from(v6) }));
            }
        }
    }
    reply.build_bytes_vec_compressed().ok().filter(|bytes| bytes.len() <= UDP_MOST)
}

fn refuse(mut reply: Packet<'_>, code: RCODE) -> Option<Vec<u8>> {
    *reply.rcode_mut() = code;
    reply.build_bytes_vec_compressed().ok()
}

/// A name as it can stand in a URL; `None` where it holds anything else.
fn host(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.');
    let plain = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    plain.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use simple_dns::rdata::RData;
    use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, RCODE, TYPE};

    use super::{Answer, Question, reply};

    fn query(name: &str, kind: QTYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        let name = Name::new_unchecked(name);
        packet.questions.push(simple_dns::Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().expect("a message")
    }

    fn answers(question: &Question) -> Answer {
        match question.name.as_str() {
            "api.example" => Answer::Addresses(Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::LOCALHOST),
            "full.example" => Answer::Full,
            _ => Answer::NoName,
        }
    }

    fn asked(name: &str, kind: QTYPE) -> (RCODE, Vec<String>) {
        let message = query(name, kind);
        let bytes = reply(&message, answers).expect("a reply");
        let packet = Packet::parse(&bytes).expect("a reply");
        assert_eq!(packet.id(), 77);
        let shown = |data: &RData<'_>| match data {
            RData::A(a) => Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(a) => Ipv6Addr::from(a.address).to_string(),
            other => format!("{other:?}"),
        };
        (packet.rcode(), packet.answers.iter().map(|record| shown(&record.rdata)).collect())
    }

    #[test]
    fn only_addresses_of_allowed_names_are_told() {
        let a = QTYPE::TYPE(TYPE::A);
        assert_eq!(asked("API.example", a), (RCODE::NoError, vec!["198.18.0.1".to_owned()]));
        assert_eq!(asked("api.example", QTYPE::TYPE(TYPE::AAAA)), (RCODE::NoError, vec!["::1".to_owned()]));
        assert_eq!(asked("api.example", QTYPE::TYPE(TYPE::TXT)), (RCODE::NoError, vec![]));
        assert_eq!(asked("api.example", QTYPE::TYPE(TYPE::HTTPS)), (RCODE::NoError, vec![]));
        assert_eq!(asked("api.example", QTYPE::AXFR), (RCODE::Refused, vec![]));
        assert_eq!(asked("other.example", a), (RCODE::NameError, vec![]));
        assert_eq!(asked("full.example", a), (RCODE::ServerFailure, vec![]));
    }

    #[test]
    fn a_reply_is_not_answered() {
        let mut message = query("api.example", QTYPE::TYPE(TYPE::A));
        message[2] |= 0x80;
        assert_eq!(reply(&message, answers), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = reply(&bytes, answers);
            let mut damaged = query("api.example", QTYPE::TYPE(TYPE::A));
            for (at, byte) in bytes.iter().enumerate().take(damaged.len()) {
                if byte & 7 == 0 {
                    damaged[at] ^= byte;
                }
            }
            let _ = reply(&damaged, answers);
        }
    }
}
