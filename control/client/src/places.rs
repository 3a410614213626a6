//! Where the replicas of a control service are, and which one is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use sideguard_runtime::chance;

use crate::ClientError;

/// Most replicas.
const MOST: usize = 32;

/// Where one replica is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// What stands before `/v1`, without a slash at the end.
    pub(crate) base: String,
}

/// All replicas; at least one.
#[derive(Debug)]
pub(crate) struct Places {
    first: Place,
    further: Vec<Place>,
    at: AtomicUsize,
}

impl Place {
    fn read(url: &str) -> Result<Self, ClientError> {
        let bad = || {
            ClientError::Setup(format!(
                "`{url}` is not the address of a control service: write it as `http://127.0.0.1:4760`"
            ))
        };
        let parts = url.parse::<Uri>().map_err(|_| bad())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(bad()) };
        if !matches!(scheme.as_str(), "http" | "https") || authority.as_str().contains('@') {
            return Err(bad());
        }
        let base = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/');
        Ok(Self { scheme, authority, base: base.to_owned() })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.base)
    }
}

impl Places {
    /// Reads URLs with commas between.
    pub(crate) fn read(urls: &str) -> Result<Self, ClientError> {
        let mut all = urls.split(',').map(|url| Place::read(url.trim()));
        let first = all.next().unwrap_or_else(|| Place::read(""))?;
        let further: Vec<Place> = all.collect::<Result<_, _>>()?;
        if further.len() >= MOST {
            return Err(ClientError::Setup(format!("more than {MOST} addresses of a control service")));
        }
        Ok(Self { first, further, at: AtomicUsize::new(0) })
    }

    pub(crate) fn count(&self) -> usize {
        1 + self.further.len()
    }

    pub(crate) fn any_is_secure(&self) -> bool {
        std::iter::once(&self.first).chain(&self.further).any(|place| place.scheme == Scheme::HTTPS)
    }

    /// The one that is asked, and its number.
    pub(crate) fn now(&self) -> (usize, &Place) {
        let at = self.at.load(Ordering::Acquire);
        (at, at.checked_sub(1).and_then(|at| self.further.get(at)).unwrap_or(&self.first))
    }

    /// Goes on to the one after number `at`, unless somebody has done so already.
    pub(crate) fn turn(&self, at: usize) {
        let next = if at + 1 >= self.count() { 0 } else { at + 1 };
        // When it fails somebody else has turned.
        let _ = self.at.compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Goes to any of them.
    pub(crate) fn anywhere(&self) {
        self.at.store(chance::below(self.count()), Ordering::Release);
    }
}
