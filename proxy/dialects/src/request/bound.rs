//! How many input tokens a call can be charged for.

use sideguard_types::units::Tokens;

use super::model::ModelRequest;
use crate::count::text_tokens;
use crate::detect::Operation;
use crate::json::{self, Document, Kind, Noted, Value};

/// The most input tokens that a call can be charged for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct InputBound {
    /// Never below what a provider counts for what the body holds: a token is at least a byte of text, in
    /// every vocabulary that is made of bytes; pictures go by a table. What JSON itself takes of the body
    /// (`{"role":"user",..}`) is more than what providers put round a message.
    pub strict: Tokens,
    /// Whether the call refers to what the body does not hold (an earlier response, a file, a search at the
    /// provider): then only the model's context window bounds its input.
    pub open: bool,
}

/// What the reader of a request learnt of its prompt.
#[derive(Debug, Default)]
pub(super) struct Prompt {
    /// Whether it refers to what the body does not hold.
    pub(super) open: bool,
    /// Bytes of JSON that the provider writes anew for the model, such as tools' schemas.
    pub(super) rendered: usize,
    /// Tools for which the provider may have words of its own.
    pub(super) built_in: u64,
}

/// Most tokens of one picture. OpenAI: `gpt-4o-mini`, 8 tiles of 5,667 and 2,833 (vision guide); newer models
/// take less. Anthropic: 2,576 by 2,576 pixels at 750 a token are below 9,000 (vision page).
const IMAGE_OPENAI: u64 = 48_169;
const IMAGE_ANTHROPIC: u64 = 9_000;
/// A picture in the closer count; `gpt-4o-mini` takes the most.
const IMAGE_COMMON: u64 = 5_000;
/// What a provider adds to any prompt; chat templates take 3.
const BASE: u64 = 16;
/// What Anthropic adds for a tool of its own (up to 735 for `computer`), or once when there are any tools
/// (up to 700): its tool use page.
const BUILT_IN: u64 = 1_000;
/// Members that never reach the model.
const SETTINGS: [&str; 16] = [
    "model",
    "stream",
    "stream_options",
    "metadata",
    "user",
    "store",
    "service_tier",
    "include",
    "safety_identifier",
    "prompt_cache_key",
    "encoding_format",
    "truncation",
    "reasoning",
    "thinking",
    "tool_choice",
    "modalities",
];

impl Prompt {
    /// The bound for a document that was read.
    pub(super) fn bound(&self, op: Operation, document: &Document<'_>) -> InputBound {
        let media = Media::of(document);
        let text = (document.decoded + self.rendered).saturating_sub(media.bytes);
        let strict = Tokens(text as u64 + BASE)
            .plus(Tokens(image_most(op)).times(media.images))
            .plus(Tokens(BUILT_IN).times(if self.built_in > 0 { self.built_in + 1 } else { 0 }));
        InputBound { strict, open: self.open || media.open }
    }
}

/// The closer count behind [`ModelRequest::counted`].
pub(super) fn counted(request: &ModelRequest<'_>, body: &[u8]) -> Tokens {
    let Ok(document) = json::read_noting(body, "type") else { return request.input.strict };
    let anthropic = matches!(request.op, Operation::Messages | Operation::CountTokens);
    let media = Media::of(&document);
    let mut text = String::new();
    let mut overhead = BASE;
    for member in document.members() {
        let key = member.key();
        if SETTINGS.contains(&&*key) {
            continue;
        }
        overhead += gather(member.value, &media, &mut text);
        overhead += 4 * member.value.elements().count() as u64;
    }
    let (numerator, denominator) = if anthropic { (3, 2) } else { (11, 10) };
    let words = text_tokens(&text).saturating_add(overhead).saturating_mul(numerator).div_ceil(denominator);
    let image = if request.model.contains("4o-mini") { IMAGE_OPENAI } else { IMAGE_COMMON };
    let tools = (request.tools.len() + request.hosted_tools.len()) as u64;
    let built_in = if anthropic && tools > 0 { BUILT_IN } else { 0 };
    Tokens(words).plus(Tokens(image).times(media.images)).plus(Tokens(built_in))
}

/// Adds every string of `value` to `text`, keys too, pictures left out. Returns the tokens of what is not in
/// strings: numbers, and the punctuation that comes with a key.
fn gather(value: Value<'_>, media: &Media, text: &mut String) -> u64 {
    let mut tokens = 0;
    for string in value.strings() {
        let span = string.value.span();
        if media.places.binary_search(&span.start).is_ok() {
            continue;
        }
        let characters = string.value.as_str().unwrap_or_default();
        if string.is_key && matches!(&*characters, "role" | "content" | "type" | "text") {
            continue;
        }
        tokens += if string.is_key { 3 } else { 0 };
        text.push_str(&characters);
        text.push('\n');
    }
    let numbers = value.leaves().filter(|leaf| leaf.value.kind() == Kind::Number);
    tokens + numbers.map(|leaf| (leaf.value.raw().len() as u64).div_ceil(3)).sum::<u64>()
}

fn image_most(op: Operation) -> u64 {
    match op {
        Operation::Messages | Operation::CountTokens => IMAGE_ANTHROPIC,
        _ => IMAGE_OPENAI,
    }
}

/// What a body holds beside text.
#[derive(Default)]
struct Media {
    images: u64,
    /// Bytes of the pictures' data, which are not read as text, and where each starts.
    bytes: usize,
    places: Vec<usize>,
    open: bool,
}

impl Media {
    fn of(document: &Document<'_>) -> Self {
        let mut media = Self::default();
        for kind in document.noted() {
            media.part(&kind);
        }
        media.places.sort_unstable();
        media
    }

    /// Takes note of the part of a message whose `type` this is.
    fn part(&mut self, kind: &Noted<'_>) {
        match &*kind.value.as_str().unwrap_or_default() {
            "image" | "image_url" | "input_image" | "image_file" | "computer_screenshot" => {
                self.images += 1;
                if let Some(data) = image_data(kind.parent()) {
                    self.bytes += data.as_str().unwrap_or_default().len();
                    self.places.push(data.span().start);
                }
            }
            "document" => {
                let source = kind.parent().get("source");
                let inline = source.and_then(|source| source.get("type")).and_then(|kind| kind.as_str());
                self.open |= !matches!(inline.as_deref(), Some("text" | "content"));
            }
            "file" | "input_file" | "document_url" | "container_upload" | "item_reference" | "video"
            | "video_url" | "input_video" => self.open = true,
            _ => {}
        }
    }
}

/// The data of a picture that the body itself holds: `image_url.url` or `image_url` as a `data:` URL (OpenAI),
/// `source.data` (Anthropic).
fn image_data(part: Value<'_>) -> Option<Value<'_>> {
    let is_image = |value: &Value<'_>| value.as_str().is_some_and(|url| url.starts_with("data:image/"));
    if let Some(url) = part.get("image_url") {
        return url.get("url").or(Some(url)).filter(is_image);
    }
    let source = part.get("source")?;
    let media_type = source.get("media_type")?.as_str()?;
    source.get("data").filter(|data| media_type.starts_with("image/") && data.kind() == Kind::String)
}
