//! What a watched answer promises, in each dialect.

mod chat;
mod limits;
mod messages;
mod properties;
mod responses;
mod transcripts;

use bytes::Bytes;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::ToolCallRefusal;

use super::{
    Answer, Flow, Judge, Options, ProposedCall, Report, StreamEnd, ToolKind, Watch, WholeError, whole,
};

/// What a refused call's agent reads.
const REFUSED: &str = "not allowed [policy_denied by `p/r`, call c1]";

/// Options that replace what is refused.
fn options(answer: Answer) -> Options {
    Options {
        answer,
        hide_usage_chunk: false,
        refuse: ToolCallRefusal::Replace,
        max_held: 1 << 20,
        output_limit: None,
        call: String::new(),
    }
}

fn refusal() -> Refusal {
    Refusal { call: "c1".to_owned(), ..Refusal::new(Code::PolicyDenied, "p/r", "not allowed") }
}

/// Refuses the tools that are named, and writes down all that it is asked.
#[derive(Default)]
struct Names<'n> {
    refused: &'n [&'n str],
    asked: Vec<(String, String, String, ToolKind)>,
}

impl<'n> Names<'n> {
    fn refusing(refused: &'n [&'n str]) -> Self {
        Self { refused, asked: Vec::new() }
    }
}

impl Judge for Names<'_> {
    fn judge(&mut self, call: &ProposedCall<'_>) -> Result<(), Refusal> {
        let args = String::from_utf8_lossy(call.args).into_owned();
        self.asked.push((call.id.to_owned(), call.name.to_owned(), args, call.kind));
        if self.refused.contains(&call.name) { Err(refusal()) } else { Ok(()) }
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    out: String,
    asked: Vec<(String, String, String, ToolKind)>,
    report: Report,
    flow: Flow,
}

fn run(options: &Options, chunks: &[&[u8]], end: StreamEnd, refused: &[&str]) -> Outcome {
    let mut watch = Watch::new(options.clone());
    let mut judge = Names::refusing(refused);
    let mut out = Vec::new();
    let mut flow = Flow::Go;
    for chunk in chunks {
        flow = watch.feed(Bytes::copy_from_slice(chunk), &mut judge, &mut out);
    }
    if flow == Flow::Go {
        flow = watch.finish(end, &mut judge, &mut out);
    }
    let out = String::from_utf8_lossy(&out.concat()).into_owned();
    Outcome { out, asked: judge.asked, report: watch.report(), flow }
}

/// A whole stream at once, with replacement.
fn pass(answer: Answer, stream: &str, refused: &[&str]) -> Outcome {
    run(&options(answer), &[stream.as_bytes()], StreamEnd::Clean, refused)
}

/// A body that is not streamed, with replacement.
fn pass_whole(answer: Answer, body: &str, refused: &[&str]) -> (String, Report) {
    let mut judge = Names::refusing(refused);
    let (body, report) = whole(&options(answer), body.to_owned().into(), &mut judge).unwrap();
    (String::from_utf8(body.to_vec()).unwrap(), report)
}

/// The JSON of each event.
fn events(stream: &str) -> Vec<serde_json::Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("events are JSON"))
        .collect()
}

fn counts(report: &Report) -> [Option<u64>; 5] {
    let usage = report.usage;
    [usage.input, usage.output, usage.cached, usage.cache_write, usage.reasoning].map(|t| t.map(|t| t.0))
}

fn calls(report: &Report) -> Vec<(&str, bool)> {
    report.tool_calls.iter().map(|call| (call.name.as_str(), call.refused)).collect()
}
