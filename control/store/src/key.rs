//! Names of what is stored. A [`Key`] starts with a tenant and there is no other way to make one, so code that serves
//! one tenant cannot name what belongs to another.

use std::fmt;
use std::sync::Arc;

/// The longest name of a tenant, in bytes.
pub const LONGEST_TENANT: usize = 63;
/// The longest path, in bytes.
pub const LONGEST_PATH: usize = 400;

/// The name of one document, account, lease or journal: a tenant and a path. Keys are ordered by the bytes of
/// `tenant/path`.
///
/// ```
/// use sideguard_store::key::Key;
/// let key = Key::new("acme", "budgets/team-a/2026-11")?;
/// assert_eq!(key.to_string(), "acme/budgets/team-a/2026-11");
/// assert!(Key::new("acme", "../other/secret").is_err());
/// # Ok::<(), sideguard_store::key::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    text: Arc<str>,
    slash: usize,
}

impl Key {
    /// Names `path` of `tenant`. A tenant is made of lower case letters, digits, `-` and `.`; a path of segments of
    /// these, `_` and `:`, with `/` between them.
    ///
    /// # Errors
    /// When one is empty or too long, has another character or `..`, or starts with `-` or `.`.
    pub fn new(tenant: &str, path: &str) -> Result<Self, KeyError> {
        check_tenant(tenant)?;
        check_path(path)?;
        Ok(Self { text: format!("{tenant}/{path}").into(), slash: tenant.len() })
    }

    /// The tenant that it belongs to.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// The path within the tenant.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }

    /// `tenant/path`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Reads back what [`Key::as_str`] gave to a database.
    pub(crate) fn read(text: &str) -> Result<Self, KeyError> {
        let (tenant, path) = text.split_once('/').ok_or_else(|| KeyError::path(text))?;
        Self::new(tenant, path)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.text)
    }
}

/// All keys of one tenant below a path: `jobs` has `jobs/1`, but neither `jobs` nor `jobs-old/1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The keys of `tenant` below `path`.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn new(tenant: &str, path: &str) -> Result<Self, KeyError> {
        Ok(Self(format!("{}/", Key::new(tenant, path)?)))
    }

    /// All keys of `tenant`.
    ///
    /// # Errors
    /// When this is no name of a tenant.
    pub fn whole(tenant: &str) -> Result<Self, KeyError> {
        check_tenant(tenant)?;
        Ok(Self(format!("{tenant}/")))
    }
}

/// All keys of all tenants: for the operator's own code, never for a request that a tenant makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EveryTenant;

/// Which keys a listing or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Keys of one tenant.
    Within(Prefix),
    /// Keys of all tenants.
    Every(EveryTenant),
}

impl From<Prefix> for Scope {
    fn from(prefix: Prefix) -> Self {
        Self::Within(prefix)
    }
}

impl From<EveryTenant> for Scope {
    fn from(every: EveryTenant) -> Self {
        Self::Every(every)
    }
}

impl Scope {
    /// Whether `key` is one of these.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        key.as_str().starts_with(self.start())
    }

    /// What every key of it starts with.
    pub(crate) fn start(&self) -> &str {
        match self {
            Self::Within(Prefix(text)) => text,
            Self::Every(_) => "",
        }
    }

    /// The first text that lies after all keys of it: `0` follows `/`, and `~` follows all that a key may have.
    pub(crate) fn end(&self) -> String {
        match self.start().strip_suffix('/') {
            Some(start) => format!("{start}0"),
            None => "~".to_owned(),
        }
    }
}

/// The text cannot be part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: use lower case letters, digits, {others}")]
pub struct KeyError {
    what: &'static str,
    others: &'static str,
    text: String,
}

impl KeyError {
    fn path(text: &str) -> Self {
        Self { what: "path", others: "`-`, `.`, `_` and `:`, with `/` between segments", text: text.to_owned() }
    }
}

/// Whether `text` can be a topic of notices: one segment of a path.
pub(crate) fn is_segment(text: &str) -> bool {
    text.len() <= LONGEST_PATH && segment(text, b"-._:")
}

fn check_tenant(text: &str) -> Result<(), KeyError> {
    if text.len() <= LONGEST_TENANT && segment(text, b"-.") {
        return Ok(());
    }
    Err(KeyError { what: "tenant", others: "`-` and `.`", text: text.to_owned() })
}

fn check_path(text: &str) -> Result<(), KeyError> {
    if text.len() <= LONGEST_PATH && text.split('/').all(|part| segment(part, b"-._:")) {
        return Ok(());
    }
    Err(KeyError::path(text))
}

fn segment(text: &str, others: &[u8]) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', '.'])
        && !text.contains("..")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || others.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::{EveryTenant, Key, Prefix, Scope};

    #[test]
    fn a_key_is_a_tenant_and_a_path_and_nothing_else() {
        for (tenant, path) in [("acme", "a"), ("a.b-c9", "x/y_z:1/-".trim_end_matches("/-")), ("0", "0/0")] {
            let key = Key::new(tenant, path).expect("a key");
            assert_eq!((key.tenant(), key.path()), (tenant, path));
            assert_eq!(Key::read(key.as_str()), Ok(key));
        }
        let long = "a".repeat(64);
        for tenant in ["", "A", "a/b", "a_b", "a:b", "..", ".a", "-a", "a..b", "a b", "é", "a*", &long] {
            assert!(Key::new(tenant, "x").is_err(), "{tenant}");
        }
        let long = "a".repeat(401);
        for path in ["", "/", "/a", "a/", "a//b", "A", "..", "a/../b", "a/.", "a b", "a\n", "a*", "a>", "a\0", &long] {
            assert!(Key::new("t", path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_scope_has_what_lies_below_it_and_its_bounds_say_the_same() {
        let jobs: Scope = Prefix::new("acme", "jobs").expect("a prefix").into();
        let whole: Scope = Prefix::whole("acme").expect("a prefix").into();
        for (tenant, path, below, within) in [
            ("acme", "jobs/1", true, true),
            ("acme", "jobs", false, true),
            ("acme", "jobs-old/1", false, true),
            ("acme", "jobs0", false, true),
            ("acme.b", "jobs/1", false, false),
            ("acme0", "jobs/1", false, false),
            ("acm", "e/jobs/1", false, false),
        ] {
            let key = Key::new(tenant, path).expect("a key");
            for (scope, holds) in [(&jobs, below), (&whole, within), (&EveryTenant.into(), true)] {
                assert_eq!(scope.holds(&key), holds, "{key} in {scope:?}");
                let (start, end) = (scope.start(), scope.end());
                assert_eq!(start <= key.as_str() && key.as_str() < end.as_str(), holds, "{key} {start} {end}");
            }
        }
    }
}
