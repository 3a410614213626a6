use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::Index;
use sideguard_types::resource::ToolCallRefusal;
use sideguard_types::units::Tokens;

use super::transcripts::all;
use super::{Answer, Names, Options, StreamEnd, options, pass, run, whole};

const REFUSED: [&[&str]; 4] = [&[], &["search"], &["delete"], &["search", "delete"]];

#[test]
fn with_nothing_refused_every_byte_passes() {
    for (name, answer, stream) in all() {
        let outcome = pass(answer, &stream, &[]);
        assert_eq!(outcome.out, stream, "{name}");
        assert!(outcome.report.complete, "{name}");
    }
}

#[test]
fn no_byte_of_refused_arguments_gets_through() {
    for (name, answer, stream) in all() {
        let outcome = pass(answer, &stream, &["search", "delete"]);
        for secret in ["cats", "etc", "search", "delete", "call_a", "toolu_a"] {
            assert!(!outcome.out.contains(secret), "{name}: {secret} in {}", outcome.out);
        }
        assert!(!outcome.asked.is_empty() || !stream.contains("search"), "{name}");
    }
}

#[test]
fn a_split_at_any_byte_changes_nothing() {
    for (name, answer, stream) in all() {
        for refused in REFUSED {
            let expected = pass(answer, &stream, refused);
            // Chunks of one byte are split everywhere; the others show where several events share a chunk.
            for size in [1, 2, 3, 7, 64, 301, 1000] {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                let split = run(&options(answer), &chunks, StreamEnd::Clean, refused);
                assert_eq!(split, expected, "{name} in chunks of {size}");
            }
            for at in (0..=stream.len()).step_by(11) {
                let (head, tail) = stream.as_bytes().split_at(at);
                let split = run(&options(answer), &[head, tail], StreamEnd::Clean, refused);
                assert_eq!(split, expected, "{name} at {at}");
            }
        }
    }
}

/// A transcript with some of its events left out, repeated and moved, and bytes put in their place.
fn mangled() -> impl Strategy<Value = (Answer, Vec<u8>)> {
    let odd = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::sample::select(
            &["data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{}}]}}]}\n\n", "data: [DONE]\n\n", "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{}]},\"finish_reason\":\"\"}]}\n\n", "data: {\"type\":\"response.output_item.done\",\"output_index\":1,\"item\":{\"type\":\"x_call\"}}\n\n"][..]
        )
        .prop_map(|text: &str| text.as_bytes().to_vec()),
    ];
    let picks = prop::collection::vec((any::<Index>(), any::<bool>(), odd), 1..24);
    (prop::sample::select(all()), picks).prop_map(|((_, answer, stream), picks)| {
        let events: Vec<&str> = stream.split_inclusive("\n\n").collect();
        let mut last = 0;
        let mut bytes = Vec::new();
        for (index, jump, odd) in picks {
            last = if jump { index.index(events.len()) } else { (last + 1) % events.len() };
            bytes.extend_from_slice(events[last].as_bytes());
            if index.index(10) == 0 {
                bytes.extend(odd);
            }
        }
        (answer, bytes)
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_splits_never_matter(
        (answer, stream) in mangled(),
        cuts in prop::collection::vec(any::<Index>(), 0..5),
        refused in prop::sample::select(&REFUSED[..]),
        limits in (1_usize..4000, any::<bool>(), any::<bool>()),
        end in prop::sample::select(&[StreamEnd::Clean, StreamEnd::Cut][..]),
    ) {
        let (max_held, hide_usage_chunk, error) = limits;
        let refuse = if error { ToolCallRefusal::Error } else { ToolCallRefusal::Replace };
        let options = Options { hide_usage_chunk, refuse, max_held, output_limit: Some(Tokens(2)), ..options(answer) };
        let expected = run(&options, &[&stream], end, refused);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&run(&options, &chunks, end, refused), &expected);
        let seen: Vec<&str> = expected.out.split(['\r', '\n']).filter(|line| !line.starts_with(':')).collect();
        for secret in refused.iter().flat_map(|name| if *name == "search" { ["cats"] } else { ["/etc"] }) {
            prop_assert!(seen.iter().all(|line| !line.contains(secret)), "{}", expected.out);
        }
    }

    #[test]
    fn no_whole_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60), (answer, stream) in mangled()) {
        let mut judge = Names::default();
        let _ = whole(&options(answer), Bytes::from(body), &mut judge);
        let text = String::from_utf8_lossy(&stream).into_owned();
        for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            if let Ok((same, _)) = whole(&options(answer), line.to_owned().into(), &mut judge) {
                prop_assert_eq!(&same[..], line.as_bytes());
            }
        }
    }
}
