//! Names of tools as words: `deleteRows`, `delete-rows` and `DELETE_ROWS` say the same.

use sideguard_types::call::Verb;

/// Longest operation in a topic, in characters.
const MAX_OPERATION: usize = 128;

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// Lower case, words joined by `_`, dots kept.
    pub(super) operation: String,
    /// What its first known word asks for; a destructive word is in `destroys`.
    pub(super) verb: Option<Verb>,
    /// The destructive verb in it, in its plain form.
    pub(super) destroys: Option<String>,
    /// It has characters outside ASCII, or is too long to be read whole.
    pub(super) strange: bool,
}

/// Verbs that destroy. A longer word that begins with one of them counts as well (`deleteall`), its past participle
/// (`list_deleted`) does not.
const DESTRUCTIVE: [&str; 8] =
    ["delete", "truncate", "remove", "destroy", "purge", "erase", "wipe", "uninstall"];
/// Words that destroy only as they stand: others that begin so mean something else (`dropbox`).
const DESTRUCTIVE_WHOLE: [(&str, &str); 17] = [
    ("drop", "drop"),
    ("drops", "drop"),
    ("droptable", "drop"),
    ("droptables", "drop"),
    ("dropdatabase", "drop"),
    ("dropschema", "drop"),
    ("dropcollection", "drop"),
    ("dropindex", "drop"),
    ("dropview", "drop"),
    ("dropuser", "drop"),
    ("del", "delete"),
    ("deletion", "delete"),
    ("rm", "remove"),
    ("rmdir", "remove"),
    ("unlink", "remove"),
    ("shred", "destroy"),
    ("rmrf", "remove"),
];
const ADMIN: &[&str] = &[
    "admin",
    "ban",
    "block",
    "chmod",
    "chown",
    "configure",
    "deploy",
    "disable",
    "downgrade",
    "enable",
    "evict",
    "format",
    "grant",
    "install",
    "kill",
    "migrate",
    "reboot",
    "reset",
    "restart",
    "restore",
    "revoke",
    "rollback",
    "rotate",
    "shutdown",
    "sudo",
    "terminate",
    "transfer",
    "upgrade",
];
const WRITE: &[&str] = &[
    "accept",
    "add",
    "append",
    "approve",
    "archive",
    "assign",
    "book",
    "buy",
    "call",
    "cancel",
    "change",
    "clear",
    "click",
    "close",
    "comment",
    "commit",
    "complete",
    "copy",
    "create",
    "edit",
    "exec",
    "execute",
    "export",
    "finish",
    "fork",
    "import",
    "insert",
    "invite",
    "invoke",
    "label",
    "link",
    "lock",
    "make",
    "mark",
    "merge",
    "modify",
    "move",
    "mutate",
    "notify",
    "open",
    "order",
    "patch",
    "pause",
    "pay",
    "post",
    "press",
    "publish",
    "push",
    "put",
    "register",
    "rename",
    "replace",
    "reply",
    "request",
    "resume",
    "run",
    "save",
    "schedule",
    "send",
    "set",
    "share",
    "start",
    "stop",
    "store",
    "submit",
    "subscribe",
    "sync",
    "tag",
    "trigger",
    "type",
    "unarchive",
    "unassign",
    "unlock",
    "unpublish",
    "unshare",
    "unsubscribe",
    "update",
    "upload",
    "upsert",
    "write",
];
const READ: &[&str] = &[
    "analyze",
    "ask",
    "browse",
    "calculate",
    "chat",
    "check",
    "compare",
    "completion",
    "completions",
    "compute",
    "convert",
    "count",
    "describe",
    "detect",
    "diff",
    "discover",
    "download",
    "echo",
    "embedding",
    "embeddings",
    "estimate",
    "explain",
    "extract",
    "fetch",
    "find",
    "generate",
    "get",
    "grep",
    "head",
    "help",
    "info",
    "inspect",
    "is",
    "list",
    "load",
    "locate",
    "lookup",
    "look",
    "ls",
    "match",
    "message",
    "messages",
    "models",
    "options",
    "parse",
    "peek",
    "ping",
    "preview",
    "query",
    "read",
    "recall",
    "render",
    "resolve",
    "response",
    "responses",
    "retrieve",
    "scan",
    "scrape",
    "search",
    "select",
    "show",
    "stat",
    "status",
    "summarize",
    "tail",
    "test",
    "think",
    "translate",
    "validate",
    "verify",
    "version",
    "view",
    "watch",
    "whoami",
];

/// Reads a name.
pub(super) fn read(name: &str) -> Reading {
    let folded: String = name.chars().filter(|c| !invisible(*c)).map(plain).collect();
    let cut: String = folded.chars().take(MAX_OPERATION).collect();
    let strange = !name.is_ascii() || cut.len() < folded.len();
    let words = split(&folded);
    let destroys = words.iter().find_map(|word| destructive(&word.text)).map(str::to_owned);
    let mut verb = None;
    let mut joined = false;
    for word in &words {
        match known(&word.text) {
            Some(found) if verb.is_none() || joined => verb = verb.max(Some(found)),
            _ => {}
        }
        // `get_or_create`: what follows counts too.
        joined = matches!(word.text.as_str(), "and" | "or" | "then");
    }
    Reading { operation: operation(&split(&cut)), verb, destroys, strange }
}

/// A server's or host's name as a part of a topic.
pub(super) fn service(name: &str) -> String {
    let name: String =
        name.chars()
            .take(253)
            .map(|c| {
                if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c.to_ascii_lowercase() } else { '_' }
            })
            .collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

struct Word {
    text: String,
    /// Whether a dot stood before it.
    dotted: bool,
}

/// Splits at separators, and between lower and upper case: `deleteRows`, `HTTPGet`.
fn split(name: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut word = String::new();
    let mut dotted = false;
    let mut before = None;
    let mut chars = name.chars().peekable();
    let mut close = |word: &mut String, dotted: &mut bool| {
        if !word.is_empty() {
            words.push(Word { text: std::mem::take(word), dotted: std::mem::take(dotted) });
        }
    };
    while let Some(c) = chars.next() {
        if !c.is_alphanumeric() {
            close(&mut word, &mut dotted);
            dotted |= c == '.';
            before = None;
            continue;
        }
        let next_is_lower = chars.peek().is_some_and(|next| next.is_lowercase());
        let hump =
            c.is_uppercase() && before.is_some_and(|before: char| !before.is_uppercase() || next_is_lower);
        if hump {
            close(&mut word, &mut dotted);
        }
        word.extend(c.to_lowercase());
        before = Some(c);
    }
    close(&mut word, &mut dotted);
    words
}

fn operation(words: &[Word]) -> String {
    let mut out = String::new();
    for word in words {
        if !out.is_empty() {
            out.push(if word.dotted { '.' } else { '_' });
        }
        out.push_str(&word.text);
    }
    if out.is_empty() { "unknown".to_owned() } else { out }
}

fn destructive(word: &str) -> Option<&'static str> {
    let whole = DESTRUCTIVE_WHOLE.iter().find(|(form, _)| *form == word).map(|(_, plain)| *plain);
    whole.or_else(|| {
        let begins = |stem: &&&str| word.strip_prefix(**stem).is_some_and(|rest| !matches!(rest, "d" | "ed"));
        DESTRUCTIVE.iter().find(begins).copied()
    })
}

fn known(word: &str) -> Option<Verb> {
    let among = |list: &[&str]| list.contains(&word);
    if among(ADMIN) {
        Some(Verb::Admin)
    } else if among(WRITE) {
        Some(Verb::Write)
    } else if among(READ) {
        Some(Verb::Read)
    } else {
        None
    }
}

/// Characters that nobody sees: soft hyphen, zero-width ones, direction marks, variation selectors.
fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// The ASCII letter that a character looks like (a few of Unicode's confusables, UTS 39), or itself.
fn plain(c: char) -> char {
    match c {
        // Fullwidth forms stand 0xFEE0 above ASCII.
        '\u{ff01}'..='\u{ff5e}' => u32::from(c).checked_sub(0xfee0).and_then(char::from_u32).unwrap_or(c),
        'а' | 'α' | 'ɑ' => 'a',
        'с' | 'ϲ' => 'c',
        'ԁ' => 'd',
        'е' | 'є' => 'e',
        'һ' => 'h',
        'і' | 'ι' | 'ı' => 'i',
        'ј' => 'j',
        'к' | 'κ' => 'k',
        'ӏ' | 'ⅼ' => 'l',
        'м' => 'm',
        'п' | 'ո' => 'n',
        'о' | 'ο' | 'օ' => 'o',
        'р' | 'ρ' => 'p',
        'г' => 'r',
        'ѕ' => 's',
        'т' | 'τ' => 't',
        'υ' | 'ս' => 'u',
        'ν' | 'ѵ' => 'v',
        'ԝ' => 'w',
        'х' | 'χ' => 'x',
        'у' | 'γ' => 'y',
        'А' | 'Α' => 'A',
        'В' | 'Β' => 'B',
        'С' => 'C',
        'Е' | 'Ε' => 'E',
        'Н' | 'Η' => 'H',
        'І' | 'Ι' => 'I',
        'К' | 'Κ' => 'K',
        'М' | 'Μ' => 'M',
        'Ν' => 'N',
        'О' | 'Ο' => 'O',
        'Р' | 'Ρ' => 'P',
        'Ѕ' => 'S',
        'Т' | 'Τ' => 'T',
        'Х' | 'Χ' => 'X',
        _ => c,
    }
}
