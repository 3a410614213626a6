//! `sideguard diff`: what an apply would change.

use std::process::ExitCode;

use sideguard_types::control::{Apply, Change};
use similar::TextDiff;

use crate::policy::Output;
use crate::remote::manifest::{Manifests, read};
use crate::remote::output::{harmless, put_as_is, put_json};
use crate::remote::{FOUND, Failure, OWN_FAILURE, Outcome, Place, end, object};

/// Flags of `sideguard diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard diff -f policies/\n\n\
    Exit codes: 0 no difference, 1 there is one, 64 the files have errors, 125 control said no or cannot be reached.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    manifests: Manifests,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    // As in kubectl, 1 says that there is a difference, and nothing else does.
    let other = |failure: Failure| Failure {
        code: if failure.code == FOUND { OWN_FAILURE } else { failure.code },
        ..failure
    };
    end(diff(arguments).await.map_err(other))
}

async fn diff(arguments: Arguments) -> Outcome<ExitCode> {
    let Arguments { manifests, output, place } = arguments;
    let client = place.client()?;
    let documents = read(&manifests.file)?;
    let applied = client.apply(&Apply { documents, dry_run: true, prune: None, expect: None }).await?;
    let changes: Vec<&Change> =
        applied.changes.iter().filter(|change| change.before != change.after).collect();
    match output {
        Output::Json => put_json(&changes)?,
        Output::Text => {
            let text: String = changes.iter().map(|change| unified(change)).collect();
            let colour = crate::colour(&std::io::stdout());
            put_as_is(&if colour { coloured(&text) } else { text })?;
        }
    }
    Ok(ExitCode::from(u8::from(!changes.is_empty())))
}

/// One object's difference, which `patch` would understand.
fn unified(change: &Change) -> String {
    let name = object::shown(&change.name);
    let side = |text: &Option<String>, which: &str| {
        let text = text.as_ref().map(|text| format!("{}\n", harmless(text).trim_end()));
        let title = if text.is_some() { format!("{name} ({which})") } else { "/dev/null".to_owned() };
        (text.unwrap_or_default(), harmless(&title).replace('\n', " "))
    };
    let (before, old) = side(&change.before, "in force");
    let (after, new) = side(&change.after, "given");
    TextDiff::from_lines(&before, &after).unified_diff().header(&old, &new).to_string()
}

fn coloured(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let code = match line.as_bytes().first() {
            _ if line.starts_with("--- ") || line.starts_with("+++ ") => "1",
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => "0",
        };
        shown.push_str(&format!("\x1b[{code}m{line}\x1b[0m\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use sideguard_types::control::{Action, Change, Name};

    use super::{coloured, unified};

    fn change(before: Option<&str>, after: Option<&str>) -> Change {
        let name = Name { tenant: "acme".to_owned(), kind: "Policy".to_owned(), name: "p".to_owned() };
        let own = |text: Option<&str>| text.map(str::to_owned);
        Change { action: Action::Updated, name, before: own(before), after: own(after) }
    }

    #[test]
    fn a_difference_names_both_sides() {
        let text = unified(&change(Some("a: 1\nb: 2\n"), Some("a: 1\nb: 3")));
        let lines =
            "--- policy/acme/p (in force)\n+++ policy/acme/p (given)\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n";
        assert_eq!(text, lines);
        assert!(
            unified(&change(None, Some("a: 1\n"))).starts_with("--- /dev/null\n+++ policy/acme/p (given)\n")
        );
        assert!(unified(&change(Some("a: 1\n"), None)).contains("\n+++ /dev/null\n"));
    }

    #[test]
    fn colours_follow_the_first_character() {
        let text = coloured("--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z\n");
        assert_eq!(
            text,
            "\x1b[1m--- a\x1b[0m\n\x1b[1m+++ b\x1b[0m\n\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n\x1b[0m z\x1b[0m\n"
        );
    }

    #[test]
    fn a_text_with_escapes_does_not_steer_the_terminal() {
        assert!(!unified(&change(None, Some("a: \u{1b}[2J\n"))).contains('\u{1b}'));
    }
}
