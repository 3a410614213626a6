//! Addresses that batches are posted to, each signed, so that whoever takes them can tell that they are control's and fresh.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use sideguard_runtime::https::Place;
use sideguard_runtime::{clock, environment};
use sideguard_types::resource::{BatchForm, SinkSecret, WebhookSink};

use super::outlet::Undelivered;
use super::shape::Shaped;
use crate::webhook::Key;

/// Longest time for one batch.
const WITHIN: Duration = Duration::from_secs(15);

/// An address.
#[derive(Debug)]
pub(super) struct Webhook {
    place: Place,
    key: Key,
    name: HeaderValue,
    form: BatchForm,
}

impl Webhook {
    pub(super) fn open(spec: &WebhookSink, name: &str) -> Result<Self, String> {
        Ok(Self {
            place: Place::new(&spec.url, None)?,
            key: key(&spec.secret)?,
            name: HeaderValue::from_str(name).map_err(|error| error.to_string())?,
            form: spec.batch,
        })
    }

    pub(super) async fn deliver(&mut self, part: &[Shaped]) -> Result<(), Undelivered> {
        let body = body(self.form, part);
        let headers = self.key.headers(clock::now(), body.as_bytes());
        let mut headers = headers.map_err(Undelivered::NotNow)?;
        let content_type = match self.form {
            BatchForm::Ndjson => "application/x-ndjson",
            BatchForm::Array => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("x-sideguard-sink", self.name.clone());
        taken(self.place.post(headers, Bytes::from(body), WITHIN).await)
    }
}

/// What an answer means for a batch.
pub(super) fn taken(answer: Result<sideguard_runtime::https::Answer, String>) -> Result<(), Undelivered> {
    let answer = answer.map_err(Undelivered::NotNow)?;
    if answer.status.is_success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.body);
    let said: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
    let why = format!("the place answered {} {said}", answer.status.as_u16());
    if answer.status == StatusCode::PAYLOAD_TOO_LARGE {
        return Err(Undelivered::TooLarge(why));
    }
    Err(Undelivered::NotNow(why))
}

fn body(form: BatchForm, part: &[Shaped]) -> String {
    let (open, between, close) = match form {
        BatchForm::Ndjson => ("", "\n", "\n"),
        BatchForm::Array => ("[", ",", "]"),
    };
    let all: Vec<&str> = part.iter().map(|one| one.json.as_str()).collect();
    format!("{open}{}{close}", all.join(between))
}

/// Reads a secret from where it is.
fn key(from: &SinkSecret) -> Result<Key, String> {
    let (text, place) = match (&from.file, &from.env) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("secret: `{}`: {error}", file.display()))?;
            (text, file.display().to_string())
        }
        (None, Some(name)) => {
            let text = environment::variable(name).ok_or_else(|| {
                format!("secret: the variable `{name}` is not set in control's environment")
            })?;
            (text, name.clone())
        }
        (None, None) => return Err("secret: it stands nowhere".to_owned()),
    };
    Key::new(text.trim_end_matches(['\n', '\r'])).map_err(|error| format!("secret: `{place}` {error}"))
}
