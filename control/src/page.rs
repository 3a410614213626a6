//! The page at `/`: files that stand in the binary. Everything that it shows it asks of the interface, by the cookie of
//! whoever is signed in.

use axum::extract::Path;
use axum::response::IntoResponse;
use http::header;

use crate::error::Failure;

/// What the page may do: run and style by its own files, ask its own host, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A file's kind and content.
type File = (&'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        /// The file of a name.
        fn file(name: &str) -> Option<File> {
            match name {
                $($name => Some(($kind, include_str!(concat!("../page/", $name)))),)*
                _ => None,
            }
        }
    };
}

files! {
    "index.html": HTML,
    "style.css": STYLE,
    "agents.js": SCRIPT,
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "approvals.js": SCRIPT,
    "breakers.js": SCRIPT,
    "budgets.js": SCRIPT,
    "calls.js": SCRIPT,
    "diff.js": SCRIPT,
    "dom.js": SCRIPT,
    "graph.js": SCRIPT,
    "kills.js": SCRIPT,
    "live.js": SCRIPT,
    "panes.js": SCRIPT,
    "policy.js": SCRIPT,
    "records.js": SCRIPT,
    "sign.js": SCRIPT,
    "table.js": SCRIPT,
    "workflows.js": SCRIPT,
}

fn answer((kind, text): File) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // The next version of the binary has another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

pub(crate) async fn index() -> Result<impl IntoResponse, Failure> {
    asset(Path("index.html".to_owned())).await
}

pub(crate) async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse, Failure> {
    file(&name).map(answer).ok_or_else(|| Failure::Missing("file of that name".to_owned()))
}
