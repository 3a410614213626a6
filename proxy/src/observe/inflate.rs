//! Decompression of an answer that is judged, as it comes.

use std::io::Write;

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// Most bytes that one part may grow to.
const MAX_PART: usize = 32 << 20;

/// A decoder of one answer.
pub(super) enum Inflate {
    /// It is not compressed.
    Identity,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Inflate {
    /// The decoder for an answer; the error names an encoding that is not known here.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let encoding = headers
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
        match encoding.as_deref() {
            None | Some("" | "identity") => Ok(Self::Identity),
            Some("gzip" | "x-gzip") => Ok(Self::Gzip(MultiGzDecoder::new(Vec::new()))),
            Some("deflate") => Ok(Self::Deflate(ZlibDecoder::new(Vec::new()))),
            Some(other) => {
                Err(format!("the answer is in content-encoding `{other}`, although `identity` was asked for"))
            }
        }
    }

    pub(super) const fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }

    /// Decodes one part.
    pub(super) fn part(&mut self, part: Bytes) -> Result<Bytes, String> {
        let bad = |error: std::io::Error| format!("the answer cannot be decompressed: {error}");
        let out = match self {
            Self::Identity => return Ok(part),
            Self::Gzip(decoder) => {
                decoder.write_all(&part).and_then(|()| decoder.flush()).map_err(bad)?;
                std::mem::take(decoder.get_mut())
            }
            Self::Deflate(decoder) => {
                decoder.write_all(&part).and_then(|()| decoder.flush()).map_err(bad)?;
                std::mem::take(decoder.get_mut())
            }
        };
        if out.len() > MAX_PART {
            return Err("the answer grows too large when decompressed".to_owned());
        }
        Ok(Bytes::from(out))
    }
}
